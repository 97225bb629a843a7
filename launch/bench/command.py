"""``vae-dist bench WHAT``: measure a part of the program on this machine."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence

from data_pipeline.errors import UserError, nearest

BENCHES = {
    "data": ("launch.bench.data", "writing and reading images, beside other libraries"),
    "train": ("launch.bench.train", "the speed of training, beside other loops"),
    "encode": ("launch.bench.encode", "images to latents, beside reading them alone"),
    "telemetry": ("launch.bench.telemetry", "what the sampler costs a training step"),
    "evaluate": ("launch.bench.evaluate", "the comparison, beside the straightforward way"),
}


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist bench ARGV``; returns the exit code."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        lines = [f"  {name:<10} {text}" for name, (_, text) in BENCHES.items()]
        print("\n".join(["usage: vae-dist bench WHAT [flags]", "", *lines]))
        return 0 if words else 2
    if words[0] == "--list-flags":  # for shell completion
        print(" ".join(BENCHES))
        return 0
    if words[0] not in BENCHES:
        raise UserError(f"bench {words[0]}: {nearest(words[0], BENCHES)}")
    if importlib.util.find_spec("benchmarks") is None:
        raise UserError(
            "bench: the folder benchmarks/ is not part of the wheel; run this in a checkout of the "
            "repository"
        )
    return importlib.import_module(BENCHES[words[0]][0]).main(words[1:])
