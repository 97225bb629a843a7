"""Textured colour images of any size, for `vae-dist prepare --dataset npz`.

    python -m benchmarks.textures 128 5000 textures128.npz

Ten classes. Each image is a wave whose direction is its class's and whose length, phase and
colours are its own, with noise added, so that neither a few pixels nor the mean colour tell the class.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

CLASSES = 10


def textures(side: int, count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Images (count, 3, side, side), uint8, and labels (count,), int64."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    down, right = np.mgrid[:side, :side].astype(np.float32) / side
    images = np.empty((count, 3, side, side), np.uint8)
    for number, label in enumerate(labels.tolist()):
        angle = np.pi * (label + rng.uniform(-0.3, 0.3)) / CLASSES
        along = np.cos(angle) * right + np.sin(angle) * down
        waves, phase = rng.uniform(2, 6), rng.uniform(0, 2 * np.pi, 3)
        wave = np.sin(2 * np.pi * waves * along + phase[:, None, None])
        noise = rng.standard_normal(wave.shape, np.float32)
        contrast, light = rng.uniform(20, 90), rng.uniform(100, 155, (3, 1, 1))
        images[number] = (light + contrast * wave + 12 * noise).clip(0, 255)
    return images, labels


def write(path: Path, side: int, count: int) -> None:
    """One file; a sixth of the images is test."""
    images, labels = textures(side, count)
    test = count // 6
    np.savez(
        path,
        x_train=images[test:],
        y_train=labels[test:],
        x_test=images[:test],
        y_test=labels[:test],
    )


def main() -> int:
    """Write what the command line asks for."""
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    write(Path(sys.argv[3]), int(sys.argv[1]), int(sys.argv[2]))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
