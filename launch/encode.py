"""Images to latents: ``vae-dist encode``, ``accelerate launch launch/encode.py``, torchrun."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # a launcher runs this file: put the project, not launch/, on the path
    sys.path[0] = sys.path[0] + "/.."

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from data_pipeline.checks import OF_RUN, check_fields
from data_pipeline.errors import UserError
from data_pipeline.progress import Progress, Silent
from launch.cli import guard
from launch.config import parse
from launch.parts import PartOf, part_of
from launch.processes import check_accelerate, check_device, is_first, join
from launch.progress import make_progress

if TYPE_CHECKING:
    from vae_dist.encode.job import Job
    from vae_dist.run.trained import Run

DESCRIPTION = """Encode images by a trained run: mu and logvar of each.

Resumes where a killed one stopped. Processes of torchrun or accelerate launch, and tasks of a Slurm
array, share the work; the result has the same bytes on any number of them."""

COMMON = (
    "run",
    "images",
    "out",
    "split",
    "reconstructions",
    "which",
    "device",
    "part",
    "overwrite",
)


@dataclasses.dataclass(kw_only=True)
class EncodeConfig:
    """Which images, by which run, to where."""

    run: Annotated[Path, arg(aliases=["--checkpoint"]), OF_RUN]
    """A run folder, a checkpoint folder or the address of one, or a .pth.tar of the 2018 program
    (torchrun takes --run for one of its own flags: call it --checkpoint there)."""
    images: str
    """A data folder, a folder of pictures, of tars or of .npy files, an .npy, .npz, .tar, .parquet or
    .tiff file; or the address of one."""
    out: Path
    """NAME.npz, NAME.parquet, or a folder's name: a data folder of mu, which vae-dist train takes
    as --data."""
    split: str = "all"
    """Of a data folder: all, train, val or test."""
    scale: str = "training"
    """Which values of pictures or arrays are black and white: as in the run's training data, or
    LOW,HIGH, percentile or auto as in vae-dist prepare."""
    reconstructions: bool = False
    """Also write the images decoded from mu."""
    use_labels: bool = False
    """Give a conditional run the labels; else it encodes as unlabelled."""


@dataclasses.dataclass(kw_only=True)
class ShareConfig:
    """The model, the machine, and how tasks share the work."""

    which: Literal["best", "last"] = "best"
    """Which of a run's checkpoints."""
    allow_code: bool = False
    """Import the module that a run's config.json names, where its model is code of your own
    (--model-type MODULE:CLASS): only for runs that you trust."""
    device: str = "auto"
    """auto (a GPU for each process where there are some), cpu or cuda."""
    part: Annotated[str, PartOf()] = "0/1"
    """This task's number and how many there are, as in 3/8, counted from 0."""
    overwrite: bool = False
    """Replace what an earlier, different call wrote to --out."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist encode ARGV``; returns the exit code."""
    config, share = parse("encode", [EncodeConfig, ShareConfig], argv, DESCRIPTION, COMMON)

    def make(run: Run, progress: Progress) -> Job:
        from vae_dist.encode.images import open_images
        from vae_dist.encode.tasks import encode_job

        if config.use_labels and not run.objective.model.num_classes:
            raise UserError("--use-labels: this run is not conditional; Fix: without the flag")
        if config.reconstructions and not run.values.are_pixels:
            raise UserError(
                "--reconstructions: the run was trained on data that are no pixels; decode mu "
                "with vae-dist decode"
            )
        scale = {} if config.scale == "training" else {"scale": config.scale}
        rows = open_images(config.images, run, split=config.split, progress=progress, **scale)
        return encode_job(
            run,
            rows,
            config.out,
            reconstructions=config.reconstructions,
            labels=config.use_labels,
        )

    return carry_out(config.run, share, make)


def carry_out(path: Path, share: ShareConfig, make: Callable[[Run, Progress], Job]) -> int:
    """Load a run, make the job and do this process's share of it; returns the exit code."""
    processes = join()
    check_accelerate(os.environ)
    import torch

    from data_pipeline.order import World
    from vae_dist.encode.job import Share
    from vae_dist.memory.allocator import keep_freed_memory
    from vae_dist.run.load import load_run
    from vae_dist.train.accelerator import join_processes

    started = time.perf_counter()
    cpu = share.device == "cpu"
    check_device(processes, os.environ, 0 if cpu else torch.cuda.device_count())
    state = join_processes(cpu)
    device = str(state.device) if share.device == "auto" else share.device
    run = load_run(path, device, share.which, allow_code=share.allow_code)
    if run.device.type == "cpu":
        keep_freed_memory()
    with make_progress() if is_first() else nullcontext(Silent()) as progress:
        job = make(run, progress)
        rows = 0
        if job.is_done(share.overwrite):
            progress.say(f"{job.output.path}: is there already, of the same run and rows")
            return 0
        progress.say(
            f"{run}; on {state.num_processes} process(es): "
            f"{job.rows.count:,} rows of {job.rows.name}"
        )
        world = World(state.process_index, state.num_processes)
        rows = job.work(Share(world, *part_of(share.part)), progress)
        state.wait_for_everyone()
        if not state.is_main_process:
            return 0
        missing = job.finish(share.overwrite, progress)
    if missing:
        print(f"{missing} pieces of other tasks are missing: the last task puts all together")
        return 0
    seconds = time.perf_counter() - started
    print(
        f"{job.output.path}: {job.rows.count:,} rows in {seconds:.1f} s"
        + (f" ({rows:,} of them by this process)" if rows != job.rows.count else "")
    )
    return 0


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))
