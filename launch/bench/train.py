"""``vae-dist bench train``: how fast training is here, beside other loops."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.train import TrainBenchConfig, bench_train
from benchmarks.train_report import document, put_into, speeds_table
from launch.config import parse

DESCRIPTION = """Time training beside a bare PyTorch loop and other libraries, turn by turn in one run,
take a step apart, and measure the scaling over processes. A model and batch size take about four
minutes; nothing else should run meanwhile."""


@dataclasses.dataclass(kw_only=True)
class TrainBenchOutputConfig:
    """What becomes of the figures."""

    json: bool = False
    """Print one JSON object, and nothing else, to stdout."""
    write: str = ""
    """Write a Markdown page, as docs/benchmarks.md; also the table in a README.md above it."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist bench train ARGV``; returns the exit code."""
    config, output = parse(
        "bench train", [TrainBenchConfig, TrainBenchOutputConfig], argv, DESCRIPTION
    )
    found = bench_train(config, lambda line: print(line, file=sys.stderr, flush=True))
    page = document(found, shlex.join(["vae-dist", "bench", "train", *argv]))
    if output.write:
        path = Path(output.write)
        path.write_text(page, encoding="utf-8")
        put_into(path.parent.parent / "README.md", speeds_table(found))
    print(json.dumps(found) if output.json else page)
    return 0
