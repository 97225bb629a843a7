"""Time and peak memory of prepare, train and evaluate, at sizes of real sets.

    python -m benchmarks.real_sizes textures 128 5000 WORK
    python -m benchmarks.real_sizes textures 256 2000 WORK
    python -m benchmarks.real_sizes fmnist 1000000 WORK    # Fashion-MNIST, shifted and mirrored

Textures are evaluated with PCA, UMAP and the VAE, Fashion-MNIST with PCA-10 and the VAE by KNN,
after an epoch that is streamed. Each command runs in a process of its own; its peak memory is what
the kernel says of the largest of its processes. A tenth of the images of Fashion-MNIST is test.
Everything is written into WORK, which must not hold a run from before.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.textures import write

LATENTS = ["--latent-size", "10"]
BLOCK = 10_000


def main() -> int:
    """Make the images, run the commands and print a line for each."""
    match sys.argv[1:]:
        case ["textures", side, count, work]:
            folder = Path(work)
            folder.mkdir(parents=True)
            apart(write, folder / "images.npz", int(side), int(count))
            training = [*LATENTS, "--model-type", "conv", "--max-steps", "20", "--batch-size", "32"]
            evaluation = ["--methods", "pca", "umap", "vae"]
        case ["fmnist", count, work]:
            folder = Path(work)
            folder.mkdir(parents=True)
            apart(write_fashion, folder, int(count))
            training = [*LATENTS, "--epochs", "1", "--batch-size", "512", "--loader", "stream"]
            evaluation = ["--methods", "pca", "vae", "--dims", "10"]
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    source = folder / "images.npz" if (folder / "images.npz").exists() else folder / "images"
    data, runs = str(folder / "data"), str(folder / "runs")
    commands = (
        ["prepare", "--dataset", "npz", "--source", str(source), "--out", data],
        ["train", "--data", data, "--runs-dir", runs, "--name", "run", *training],
        ["evaluate", "--data", data, "--runs", f"{runs}/run", "--out", f"{work}/eval", *evaluation],
    )
    for command in commands:
        seconds, cpu, peak = measured(command, folder / f"{command[0]}.log")
        print(f"{command[0]}: {seconds:.0f} s, {cpu:.0f} CPU s, {peak / 1e9:.2f} GB", flush=True)
    return 0


def apart(make: Callable[..., None], *arguments: object) -> None:
    """Call in a process of its own: a command's peak counts from that of its parent."""
    process = multiprocessing.get_context("spawn").Process(target=make, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise SystemExit("the images could not be made")


def measured(command: list[str], log: Path) -> tuple[float, float, int]:
    """Seconds, CPU seconds and peak memory in bytes (of the largest process) of a command."""
    begin = time.perf_counter()
    argv = [sys.executable, "-m", "launch.cli", *command]
    with log.open("wb") as out:
        to_log = [(os.POSIX_SPAWN_DUP2, out.fileno(), 1), (os.POSIX_SPAWN_DUP2, out.fileno(), 2)]
        child = os.posix_spawn(sys.executable, argv, os.environ, file_actions=to_log)
        _, status, usage = os.wait4(child, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(command)} failed: {log}")
    cpu = usage.ru_utime + usage.ru_stime
    return time.perf_counter() - begin, cpu, usage.ru_maxrss * 1024


def write_fashion(folder: Path, count: int) -> None:
    """Images (n, 28, 28) and labels (n,) as .npy files, a block at a time."""
    from data_pipeline.sources import SourceConfig, load_source

    source = load_source(SourceConfig(dataset="fmnist"))
    images = folder / "images"
    images.mkdir()
    test = count // 10
    for split, n in (("train", count - test), ("test", test)):
        part = source.splits[split]
        rng = np.random.default_rng(n)
        out = np.lib.format.open_memmap(
            images / f"x_{split}.npy", mode="w+", dtype=np.uint8, shape=(n, 28, 28)
        )
        labels = np.empty(n, np.int64)
        for start in range(0, n, BLOCK):
            rows = np.arange(start, min(start + BLOCK, n)) % len(part.labels)
            moves = rng.integers(-2, 3, (len(rows), 2))
            mirrored = rng.random(len(rows)) < 0.5
            block = part.images[rows][:, 0]
            for i, (move, mirror) in enumerate(zip(moves, mirrored, strict=True)):
                image = np.roll(block[i], move, (0, 1))
                out[start + i] = image[:, ::-1] if mirror else image
            labels[start : start + len(rows)] = part.labels[rows]
        out.flush()
        np.save(images / f"y_{split}.npy", labels)


if __name__ == "__main__":
    raise SystemExit(main())
