"""``vae-dist bench evaluate``: the comparison against the straightforward way."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from benchmarks.evaluate import BenchEvaluateConfig, bench_evaluate
from launch.config import parse

DESCRIPTION = """Time PCA, UMAP and KNN as the evaluation does them and as one would write them down
with scikit-learn and umap-learn, on the CPU, each in a fresh process, and compare the figures. On
70,000 images it takes about four minutes on two idle cores; --train-images makes it shorter."""


@dataclasses.dataclass(kw_only=True)
class BenchOutputConfig:
    """What is printed."""

    json: bool = False
    """Print one JSON object, and nothing else, to stdout."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist bench evaluate ARGV``; returns the exit code."""
    config, output = parse(
        "bench evaluate", [BenchEvaluateConfig, BenchOutputConfig], argv, DESCRIPTION
    )
    found = bench_evaluate(config, lambda line: print(f"  {line}", file=sys.stderr, flush=True))
    if output.json:
        print(json.dumps(found))
        return 0
    for way, seconds in found["seconds"].items():
        stages = ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())
        print(f"{way}: {found['total_seconds'][way]:.1f} s ({stages})")
    differences = found["differences"]
    print(f"{found['speedup']:.1f} times faster")
    print(
        f"largest difference: {differences['knn_accuracy']:g} in {differences['cells']} KNN "
        f"accuracies, {differences['explained_variance']:.1e} in explained variance"
    )
    return 0
