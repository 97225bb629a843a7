"""Latents to images: ``vae-dist decode``, the inverse of ``vae-dist encode``."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # a launcher runs this file: put the project, not launch/, on the path
    sys.path[0] = sys.path[0] + "/.."

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from data_pipeline.checks import OF_RUN
from data_pipeline.errors import UserError
from data_pipeline.progress import Progress
from launch.cli import guard
from launch.config import parse
from launch.encode import ShareConfig, carry_out

if TYPE_CHECKING:
    from vae_dist.encode.job import Job
    from vae_dist.run.trained import Run

DESCRIPTION = """Decode latents by a trained run: the mean image of each.

Resumes, and shares the work among processes and tasks, as vae-dist encode does."""


@dataclasses.dataclass(kw_only=True)
class DecodeConfig:
    """Which latents, by which run, to where."""

    run: Annotated[Path, arg(aliases=["--checkpoint"]), OF_RUN]
    """A run folder, a checkpoint folder or the address of one, or a .pth.tar of the 2018 program
    (torchrun takes --run for one of its own flags: call it --checkpoint there)."""
    latents: Path
    """What vae-dist encode wrote (a file or a data folder), or an .npy of (n, z)."""
    out: Path
    """NAME.npz, NAME.parquet, or a folder for PNGs."""
    use_labels: bool = False
    """Give a conditional run the labels that lie beside the latents."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist decode ARGV``; returns the exit code."""
    config, share = parse("decode", [DecodeConfig, ShareConfig], argv, DESCRIPTION)

    def make(run: Run, progress: Progress) -> Job:
        from vae_dist.encode.latents import LatentRows
        from vae_dist.encode.tasks import decode_job

        if config.use_labels and not run.objective.model.num_classes:
            raise UserError("--use-labels: this run is not conditional; Fix: without the flag")
        rows = LatentRows(config.latents.expanduser())
        if rows.shape != (run.latent_size,):
            raise UserError(
                f"--latents {config.latents}: {rows.shape[0]} latents a row, "
                f"{run.name} has {run.latent_size}"
            )
        return decode_job(run, rows, config.out, labels=config.use_labels)

    return carry_out(config.run, share, make)


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))
