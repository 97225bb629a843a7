"""``vae-dist bench data``: images a second of the pipeline and of others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.data import BenchDataConfig, bench_data
from data_pipeline.folder import open_data
from launch.config import parse


@dataclass(kw_only=True)
class BenchOutputConfig:
    """Which images, and where the figures go."""

    folder: tyro.conf.Positional[str] = "data/fmnist"
    """Data folder whose training images are read."""
    out: Path = Path("bench-data.json")
    """File for the figures."""
    json: bool = False
    """Print one JSON object and nothing else."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist bench data ARGV``; returns the exit code."""
    output, config = parse(
        "bench data",
        [BenchOutputConfig, BenchDataConfig],
        argv,
        "Write and read the same images in memory, streamed, and by other libraries.",
    )
    data = open_data(output.folder)
    record = bench_data(data, config, (lambda line: None) if output.json else print)
    output.out.parent.mkdir(parents=True, exist_ok=True)
    output.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if output.json:
        print(json.dumps(record))
    else:
        rates = {row["name"]: row["images_per_second"] for row in record["rows"]}
        ratio = rates["stream, blocks"] / rates["webdataset alone, PNGs"]
        print(f"stream of blocks reads {ratio:.0f} times as fast as webdataset alone reads PNGs")
        print(f"figures in {output.out}")
    return 0
