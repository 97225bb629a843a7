"""``vae-dist bench telemetry``: what the sampler costs a training step here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from benchmarks.telemetry import TelemetryBenchConfig, measure
from data_pipeline.errors import UserError
from launch.config import parse
from vae_dist.telemetry import TelemetryConfig


@dataclasses.dataclass(kw_only=True)
class OutputConfig:
    """How the result is said."""

    json: bool = False
    """Print one JSON object and nothing else."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist bench telemetry ARGV``; returns the exit code."""
    owners = [TelemetryBenchConfig, TelemetryConfig, OutputConfig]
    title = "Measure what telemetry costs a training step."
    config, telemetry, output = parse("bench telemetry", owners, argv, title)
    if not telemetry.telemetry_interval:
        raise UserError("--telemetry-interval 0: without a sampler there is no cost to measure")
    found = measure(config, telemetry)
    if output.json:
        print(json.dumps({"schema": 1} | found))
        return 0
    low, high = found["ratio_quartiles"]
    print(
        f"a step takes {found['ratio']:.4f} times as long with telemetry (median of "
        f"{found['pairs']} pairs of turns, quartiles {low:.4f} and {high:.4f}), and {found['cpu_ratio']:.4f} times the CPU time"
    )
    print(
        f"CPU time of telemetry: {found['cpu_share']:.3%} of wall time; one sample "
        f"{found['sample_seconds'] * 1e3:.1f} ms every {found['interval']} s, one step() call "
        f"{found['step_call_seconds'] * 1e6:.1f} us of {found['step_seconds'] * 1e3:.1f} ms"
    )
    print(f"on {found['device']}, {found['machine']}, torch {found['torch']}")
    return 0
