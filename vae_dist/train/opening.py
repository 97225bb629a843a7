"""What a run writes and says before its first step and after its last."""

from __future__ import annotations

import contextlib
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.folder import DataFolder
from data_pipeline.redact import shown
from vae_dist.mirror.mirror import Mirror
from vae_dist.models.base import latents_in_words
from vae_dist.run.checkpoint import SCHEMA
from vae_dist.run.folder import RunFolder
from vae_dist.trackers import MOST_TAGS
from vae_dist.train.graph import why_not
from vae_dist.train.loaders import Loaders
from vae_dist.train.settings import Settings
from vae_dist.train.state import TrainState

PROFILE_WAIT, PROFILE_STEPS = 5, 5


COPY_SECONDS = 30.0
"""How long the other processes wait for a word of the main one, at the end of a run."""


def open_folder(settings: Settings) -> RunFolder:
    """The run folder of these settings, with its copy in an object store if it is to have one."""
    address, path = settings.run.address, settings.folder
    mirror = None
    if address:
        mirror = Mirror(address, path, settings.mirror, settings.checkpoint, _say)
    return RunFolder(path, settings.run.status_file, mirror)


def wait_for_copy(folder: RunFolder, is_main: bool) -> None:
    """Wait for what the run's copy lacks; every process, for a launcher ends those that stay."""
    from accelerate.utils import broadcast_object_list

    over = [folder.mirror is None]
    while not over[0]:
        if is_main:
            over[0] = folder.finish(COPY_SECONDS)
        broadcast_object_list(over)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def write_run_files(folder: RunFolder, state: TrainState, data: DataFolder) -> None:
    """Write ``config.json``, from which a model is rebuilt, and ``environment.json``."""
    manifest = data.manifest
    folder.write(
        folder.path / "config.json",
        {
            "schema": SCHEMA,
            "image_shape": list(manifest.image_shape),
            "num_classes": len(manifest.classes),
            "classes": list(manifest.classes),
            "latent_shape": list(state.objective.model.latent_shape),
            "data": state.trained_on,
            **state.settings.as_dict(),
        },
    )
    folder.write_environment(state.device, state.world.size)


def introduction(
    state: TrainState, data: DataFolder, loaders: Loaders, origin: str
) -> Iterator[str]:
    """Lines that say what is about to run, and where."""
    settings, manifest = state.settings, data.manifest
    count = sum(p.numel() for p in state.parameters)
    precision = settings.precision.mixed_precision
    yield (
        f"{settings.run.name}: {settings.model.model_type}, {count:,} parameters, "
        f"{latents_in_words(state.objective.model.latent_shape)}; {manifest.name}, "
        f"{loaders.train.num_images:,} training and {loaders.val.num_images:,} "
        "validation images"
    )
    yield (
        f"{state.world.size} process(es) on {state.device.type}, precision "
        f"{'fp32' if precision == 'no' else precision}, global batch {settings.run.batch_size}, "
        f"{state.steps_per_epoch} steps an epoch, {state.total_steps:,} in all"
    )
    yield f"images: {loaders.train.reason}"
    if state.device.type == "cuda":
        reason = why_not(settings, state.world.size, state.device)
        yield f"steps: {'CUDA graphs' if reason is None else f'no CUDA graphs: {reason}'}"
    if not manifest.values.are_bytes:
        yield f"values: {manifest.values}" + (
            "" if manifest.values.are_pixels else ": no SSIM, no PSNR and no pictures of them"
        )
    for name, fault in loaders.left_out.items():
        yield f"not read by any process: shard {name} ({fault})"
    if (latents := state.objective.model.latent_size) > MOST_TAGS:
        yield f"the KL of each of {latents:,} latents (kl_dim) is in metrics.jsonl, not in trackers"
    if state.frozen:
        left = sum(p.numel() for p in state.objective.parameters() if not p.requires_grad)
        yield f"not trained: {len(state.frozen)} tensors, {left:,} parameters (--freeze)"
    if state.average is not None:
        yield (
            f"validation, best and whatever uses this run later take the moving average of the "
            f"weights (--ema {state.average.decay:g})"
        )
    yield origin


def closing(
    state: TrainState, data: DataFolder, folder: RunFolder, reason: str | None
) -> Iterator[str]:
    """Lines that say how a training ended, what it left, and the next command.

    Parameters
    ----------
    state : TrainState
    data : DataFolder
        What it was trained on.
    folder : RunFolder
    reason : str or None
        Why it was stopped before its end; None: it is done.
    """
    run = shlex.quote(str(folder))
    if reason is not None:
        last = folder.checkpoints / "last"
        yield f"stopped by {reason} after step {state.counters.step:,}: {last}"
        yield f"resume with: vae-dist train --resume {run}"
        return
    yield f"done: {state.counters.epoch:g} epoch(s), {state.counters.step:,} steps"
    best = folder.checkpoints / "best"
    if best.exists() and state.best is not None:
        by = state.settings.checkpoint.best_by
        score = state.best if by == "loss" else -state.best
        yield f"best checkpoint: {best} ({best.resolve().name}, validation {by} {score:.4g})"
    if not data.manifest.values.are_pixels:
        yield f"next: vae-dist encode --run {run} --images DATA --out latents.npz"
        return
    yield f"next: vae-dist evaluate --runs {run} --data {shlex.quote(shown(str(data.path)))}"


@contextlib.contextmanager
def make_profiler(settings: Settings, folder: Path) -> Iterator[Any]:
    """torch's profiler over a few steps, its trace in ``folder/profile``; or one that does nothing."""
    if not settings.run.profile:
        yield NullProfiler()
        return
    from torch.profiler import profile, schedule, tensorboard_trace_handler

    with profile(
        schedule=schedule(wait=PROFILE_WAIT, warmup=1, active=PROFILE_STEPS, repeat=1),
        on_trace_ready=tensorboard_trace_handler(str(folder / "profile")),
        profile_memory=True,
        record_shapes=True,
    ) as profiler:
        yield profiler


class NullProfiler:
    """Profiles nothing."""

    def step(self) -> None:
        """Take note that a step ended."""
