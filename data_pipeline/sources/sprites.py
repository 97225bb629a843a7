"""White shapes on black, drawn from known factors as in dSprites; needs no file and no network."""

from __future__ import annotations

import functools
import math

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.order import permutation
from data_pipeline.progress import Progress
from data_pipeline.sources.base import SourceConfig, SourceData, hold_out

SHAPES = ("square", "ellipse", "heart")
FACTORS = {"shape": 3, "scale": 6, "orientation": 40, "x": 32, "y": 32}
"""Number of values by factor; an image's index is its place in their grid, y changing fastest."""
COMBINATIONS = math.prod(FACTORS.values())
SIZE, LEAST_SIZE, MOST_SIZE = 64, 16, 256


class Sprites:
    """Images of combinations of the factors, drawn when they are taken: a slice is an array.

    Parameters
    ----------
    index : numpy.ndarray
        (n,), int64, places in the grid of factors.
    size : int
        Pixels a side.
    """

    ndim, dtype = 4, np.dtype(np.uint8)

    def __init__(self, index: np.ndarray, size: int) -> None:
        self.index, self.size = index, size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, 1, H, W)."""
        return (len(self.index), 1, self.size, self.size)

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, which: slice) -> np.ndarray:
        index = self.index[which]
        images = np.empty((len(index), 1, self.size, self.size), np.uint8)
        values = np.stack(np.unravel_index(index, tuple(FACTORS.values())), axis=1)
        for image, (shape, scale, turn, x, y) in zip(images[:, 0], values.tolist(), strict=True):
            points = np.zeros((2 * self.size, 2 * self.size), np.uint8)
            left, top = (step * self.size // FACTORS["x"] for step in (x, y))
            sprite = _sprite(shape, scale, turn, self.size)
            points[top : top + self.size, left : left + self.size] = sprite
            covered = points[::2] + points[1::2]
            image[:] = (covered[:, ::2] + covered[:, 1::2]) * 63.75  # of 0 to 4 points
        return images


def load_sprites(config: SourceConfig, progress: Progress) -> SourceData:
    """``--sprites`` of the 737,280 combinations of dSprites' factors, drawn without repetition.

    Which ones follows from ``--sprites-seed``; a fifth of each shape (``--test-fraction``) is the
    test split.
    """
    size = config.image_size or SIZE
    if not LEAST_SIZE <= size <= MOST_SIZE:
        raise UserError(
            f"--image-size {size}: sprites have {LEAST_SIZE} to {MOST_SIZE} pixels a side"
        )
    drawn = permutation(COMBINATIONS, config.sprites_seed, "sprites")[: config.sprites]
    index = np.sort(drawn)
    labels = np.unravel_index(index, tuple(FACTORS.values()))[0].astype(np.int64)
    splits = {}
    for name, rows in zip(("train", "test"), hold_out(labels, config.test_fraction), strict=True):
        images: np.ndarray = Sprites(index[rows], size)  # type: ignore[assignment]
        splits[name] = Arrays(images, labels[rows], index[rows])
    progress.say(f"sprites: {len(index):,} of {COMBINATIONS:,} combinations of factors")
    provenance = {
        "found": "drawn by the program",
        "factors": [list(factor) for factor in FACTORS.items()],  # JSON would sort names
        "sprites": len(index),
        "sprites_seed": config.sprites_seed,
        "image_size": size,
        "test_fraction": config.test_fraction,
    }
    return SourceData("sprites", splits, list(SHAPES), provenance)


@functools.lru_cache(maxsize=FACTORS["shape"] * FACTORS["scale"] * FACTORS["orientation"])
def _sprite(shape: int, scale: int, turn: int, size: int) -> np.ndarray:
    """Which of the (size, size) points around a sprite it covers; a pixel has 2x2 points.

    Sums and products alone, of sines that are rounded: the same points on every machine.
    """
    # The largest sprite is half as wide as the image, the smallest half as wide as that.
    radius = (5 + scale) / (4 + FACTORS["scale"])
    along = ((2 * np.arange(size) + 1) / size - 1) / radius
    angle = 2 * math.pi * turn / FACTORS["orientation"]
    cosine, sine = round(math.cos(angle), 12), round(math.sin(angle), 12)
    u = along[None, :] * cosine + along[:, None] * sine
    v = along[:, None] * cosine - along[None, :] * sine
    if shape == 0:
        return np.maximum(abs(u), abs(v)) <= 0.7
    if shape == 1:
        return u * u + 4 * v * v <= 1
    u, v = 1.25 * u, -1.25 * v  # a heart, upright where it is not turned, within the circle
    inner = u * u + v * v - 1
    return inner * inner * inner <= u * u * v * v * v
