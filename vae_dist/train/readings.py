"""The figures of a step, on their way from the device."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

SUMS = ("loss", "recon", "kl", "images", "ssim", "ssim_images")
"""What is summed over the images of the steps that compute it, on the device, in this order."""


class NonFiniteLoss(RuntimeError):
    """The loss or its gradient is NaN or infinite."""


def first_bad(checks: list[Tensor], step: int, reduce: Callable[[Tensor], Tensor]) -> NonFiniteLoss:
    """Name the first of some steps that went wrong; all processes must call this.

    Parameters
    ----------
    checks : list of Tensor
        A number of each step, finite where its loss is.
    step : int
        The step after the last of them.
    reduce : callable
        Sums a tensor over processes.
    """
    found = reduce(torch.stack(checks))
    first = int((~torch.isfinite(found)).nonzero()[0])
    return NonFiniteLoss(step - len(checks) + first)


class Reading:
    """Numbers on their way from the device; to wait for them a window later costs nothing.

    Parameters
    ----------
    numbers : Tensor
        Reduced sums in the order of `SUMS`, the sum of all checks, then more numbers.
    checks, step, reduce
        As `first_bad` takes them.
    """

    def __init__(
        self, numbers: Tensor, checks: list[Tensor], step: int, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        self._checks, self._step, self._reduce = checks, step, reduce
        self._numbers = numbers.to("cpu", non_blocking=True)  # page-locked, where from a GPU
        self._arrived = None
        if numbers.device.type == "cuda":
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> tuple[dict[str, float], list[float]]:
        """Means over the step's images and the other numbers, the same on every process.

        Raises
        ------
        NonFiniteLoss
            If the loss of a step since the reading before was NaN or infinite.
        """
        if self._arrived is not None:
            self._arrived.synchronize()
        *sums, check = self._numbers[: len(SUMS) + 1].tolist()
        if not math.isfinite(check):
            raise first_bad(self._checks, self._step, self._reduce)
        return means(sums), self._numbers[len(SUMS) + 1 :].tolist()


def means(total: list[float]) -> dict[str, float]:
    """Figures an image from reduced sums in the order of `SUMS`; NaN where there is no image."""
    sums = dict(zip(SUMS, total, strict=True))
    images, shown = sums["images"] or math.nan, sums["ssim_images"]
    figures = {name: sums[name] / images for name in ("loss", "recon", "kl")}
    return figures | ({"ssim": sums["ssim"] / shown} if shown else {})
