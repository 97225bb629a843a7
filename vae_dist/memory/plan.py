"""Before the first step what a run expects to need, after it what it took."""

from __future__ import annotations

import math
from collections.abc import Iterator

import psutil
import torch

from vae_dist.memory.estimate import Need, available_bytes, estimate
from vae_dist.memory.search import Probe, find_micro_batch
from vae_dist.telemetry.summary import show_bytes
from vae_dist.train.state import TrainState


class Fit:
    """Plans a run's memory; made before DDP wraps the module.

    With ``--find-batch-size`` the micro-batch is grown here and the state's accumulation set
    to match: every process takes the smallest that any found.

    Parameters
    ----------
    state : TrainState
    """

    def __init__(self, state: TrainState) -> None:
        self.state = state
        run = state.settings.run
        self.local_batch = math.ceil(run.batch_size / state.world.size)
        self.found: int | None = None
        if state.settings.memory.find_batch_size:
            self.found = self._find()
            state.accumulate = math.ceil(self.local_batch / self.found)
        self.need = self._estimate(state.accumulate)
        left = available_bytes(state.device)
        self.available = None if left is None else left + self.need.parameters  # already there
        self._before = _in_use(state.device)
        self._told = False
        self.taken: int | None = None

    def _estimate(self, accumulate: int) -> Need:
        settings = self.state.settings
        return estimate(
            self.state.objective,
            image_shape=self.state.manifest.image_shape,
            local_batch=self.local_batch,
            global_batch=settings.run.batch_size,
            accumulate=accumulate,
            samples=settings.loss.importance_samples,
            precision=settings.precision.mixed_precision,
            optimizer=settings.optim.optimizer,
            momentum=settings.optim.momentum,
            value_bytes=self.state.values.size,
        )

    def _find(self) -> int:
        state = self.state
        probe = Probe(
            state.objective,
            self._estimate(1),
            state.manifest.image_shape,
            state.settings.loss.importance_samples,
            state.accelerator.autocast,
        )
        found = torch.tensor(find_micro_batch(probe, self.local_batch), device=state.device)
        if state.device.type == "cuda":  # what was tried is no part of the run
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(state.device)
        if state.world.size > 1:
            torch.distributed.all_reduce(found, torch.distributed.ReduceOp.MIN)
        return int(found)

    def lines(self) -> Iterator[str]:
        """What to say before the first step."""
        run = self.state.settings.run
        if self.found is not None:
            yield (
                f"--find-batch-size: {self.found} images fit at once; each process computes its "
                f"{self.local_batch} of the global batch of {run.batch_size} in "
                f"{self.state.accumulate} micro-batch(es)"
            )
        yield self.need.describe(self.available)

    def after_step(self) -> str | None:
        """After the first step: what it took, in one line; None after the others."""
        if self._told:
            return None
        self._told = True
        device = self.state.device
        if device.type == "cuda":
            peak = self.taken = torch.cuda.max_memory_allocated(device)
            reserved = torch.cuda.max_memory_reserved(device)
            return (
                f"memory taken by the first step: {show_bytes(peak)} allocated, "
                f"{show_bytes(reserved)} reserved at the peak"
            )
        grown = self.taken = max(_in_use(device) - self._before, 0)
        return (
            f"memory taken by the first step: {show_bytes(grown)} more resident, libraries "
            "loaded meanwhile included"
        )

    def as_dict(self) -> dict[str, int | None]:
        """For ``status.json``: expected, available and taken bytes."""
        return {
            **self.need.as_dict(),
            "available_bytes": self.available,
            "taken_bytes": self.taken,
            "accumulate": self.state.accumulate,
        }


def _in_use(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.memory_allocated(device))
    return int(psutil.Process().memory_info().rss)
