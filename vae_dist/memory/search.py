"""Finds the largest micro-batch that fits into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch

from vae_dist.memory.estimate import Need, available_bytes
from vae_dist.metrics import ssim
from vae_dist.objective import Objective
from vae_dist.telemetry.summary import show_bytes

HEADROOM = 0.05
"""Share of the device's memory that a found micro-batch leaves free."""


def find_micro_batch(probe: Callable[[int], None], largest: int, *, start: int = 32) -> int:
    """Find the largest micro-batch that fits: doubled while it does, then refined.

    Parameters
    ----------
    probe : callable
        Runs one forward and backward pass of that number of images; out of memory if they do not
        fit.
    largest : int
        This process's part of the global batch.
    start : int
        Where growth begins.

    Raises
    ------
    MemoryError
        If not even one image fits.
    """
    from accelerate.utils import find_executable_batch_size
    from accelerate.utils.memory import should_reduce_batch_size

    good, size = 0, min(start, largest)
    try:
        while True:
            probe(size)
            good = size
            if size == largest:
                return size
            size = min(2 * size, largest)
    except Exception as error:
        if not should_reduce_batch_size(error):
            raise
    step = max((size - good) // 8, 1) if good else 0

    def smaller() -> int:
        nonlocal size
        size = max(size - step, good) if good else size // 2
        return size

    def attempt(batch_size: int) -> int:
        if batch_size != good:
            probe(batch_size)
        return batch_size

    found = find_executable_batch_size(
        attempt, starting_batch_size=smaller(), reduce_batch_size_fn=smaller
    )
    try:
        return int(found())
    except RuntimeError as error:
        if "No executable batch size" not in str(error):
            raise
        raise MemoryError("not even one image fits into memory") from error


class Probe:
    """Runs a training step's memory without its effect, for `find_micro_batch`.

    Parameters
    ----------
    objective : Objective
        Not yet wrapped: the processes must not wait for each other here.
    need : Need
        Of the whole local batch; what it holds beside activations is held here too.
    image_shape : tuple of int
        (C, H, W).
    samples : int
        Latent samples an image.
    autocast : callable
        Makes the context that a step runs in.
    """

    def __init__(
        self,
        objective: Objective,
        need: Need,
        image_shape: tuple[int, ...],
        samples: int,
        autocast: Callable[[], contextlib.AbstractContextManager[Any]],
    ) -> None:
        self.objective, self.need, self.image_shape = objective, need, image_shape
        self.samples, self.autocast = samples, autocast
        self.device = next(objective.parameters()).device

    def _refuse_beyond(self, images: int) -> None:
        """On the CPU nothing fails in time: the kernel kills. So ask before."""
        need, room = self.need, available_bytes(self.device)
        if self.device.type != "cpu" or need.activations is None or room is None:
            return
        wanted = need.fixed + need.activations * images // need.micro_batch
        if wanted > room * (1 - HEADROOM):
            raise RuntimeError(
                f"DefaultCPUAllocator: can't allocate memory: {images} images would take "
                f"{show_bytes(wanted)} of {show_bytes(room)}"
            )

    def __call__(self, images: int) -> None:
        """Run forward and backward of this number of images; parameters stay as they are."""
        self._refuse_beyond(images)
        device, objective = self.device, self.objective
        buffers = {name: buffer.clone() for name, buffer in objective.named_buffers()}
        spare = 0
        if device.type == "cuda":
            spare = int(HEADROOM * torch.cuda.mem_get_info(device)[1])
        beside = self.need.optimizer + self.need.inputs + spare
        held = torch.empty(beside, dtype=torch.uint8, device=device)
        try:
            with self.autocast():
                x = torch.zeros(images, *self.image_shape, device=device)
                labels = torch.zeros(images, dtype=torch.int64, device=device)
                shape = (images, self.samples, objective.model.latent_size)
                terms = objective(x, torch.zeros(shape, device=device), labels)
                loss = objective.combine(terms).sum()
            loss.backward()
            with torch.no_grad():  # what a step that is logged measures
                if objective.config.of_pixels:
                    shown = objective.mean_image(terms.logits)
                    ssim(shown, x, objective.config.ssim_window_size)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
        finally:
            del held
            objective.zero_grad(set_to_none=True)
            with torch.no_grad():
                for name, buffer in objective.named_buffers():
                    buffer.copy_(buffers[name])
