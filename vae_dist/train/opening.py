"""What a run writes and says before its first step."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.folder import DataFolder
from vae_dist.run.checkpoint import SCHEMA
from vae_dist.run.folder import RunFolder
from vae_dist.train.loaders import Loaders
from vae_dist.train.settings import Settings
from vae_dist.train.state import TrainState

PROFILE_WAIT, PROFILE_STEPS = 5, 5


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
        f"{settings.model.latent_size} latents; {manifest.name}, "
        f"{loaders.train.num_images:,} training and {loaders.val.num_images:,} "
        "validation images"
    )
    yield (
        f"{state.world.size} process(es) on {state.device.type}, precision "
        f"{'fp32' if precision == 'no' else precision}, global batch {settings.run.batch_size}, "
        f"{state.steps_per_epoch} steps an epoch, {state.total_steps:,} in all"
    )
    yield f"images: {loaders.train.reason}"
    for name, fault in loaders.left_out.items():
        yield f"left out on all processes: shard {name} ({fault})"
    if state.frozen:
        left = sum(p.numel() for p in state.objective.parameters() if not p.requires_grad)
        yield f"not trained: {len(state.frozen)} tensors, {left:,} parameters (--freeze)"
    if state.average is not None:
        yield (
            f"validation, best and whatever uses this run later take the moving average of the "
            f"weights (--ema {state.average.decay:g})"
        )
    yield origin


@contextlib.contextmanager
def make_profiler(settings: Settings, folder: Path) -> Iterator[Any]:
    """torch's profiler over a few steps, its trace in ``folder/profile``; or a null one."""
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
