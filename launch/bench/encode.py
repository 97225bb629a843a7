"""``vae-dist bench encode``: images to latents, beside the stream loader alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from benchmarks.encode import BenchEncodeConfig, bench_encode
from launch.config import parse


@dataclass(kw_only=True)
class BenchRunConfig:
    """Which images, and by which run."""

    folder: tyro.conf.Positional[str] = "data/fmnist"
    """Data folder whose training images are encoded."""
    run: str = "runs/article2018_best"
    """A trained run."""
    json: bool = False
    """Print one JSON object and nothing else."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist bench encode ARGV``; returns the exit code."""
    output, config = parse(
        "bench encode",
        [BenchRunConfig, BenchEncodeConfig],
        argv,
        "Encode the same images to a data folder and to .npz, beside reading them alone.",
    )
    say = (lambda line: None) if output.json else print
    record = bench_encode(output.folder, output.run, config, say)
    if output.json:
        print(json.dumps(record))
        return 0
    for name in ("to_folder", "to_npz"):
        print(f"{name}: {record['shares'][name]:.2f} of the stream loader's speed")
    print(f"peak memory of the process: {record['peak_memory_bytes'] / 1e6:,.0f} MB")
    return 0
