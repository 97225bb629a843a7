"""What flows out of the pipeline: arrays of a whole split, and batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Arrays:
    """Images of one split, held as arrays.

    Attributes
    ----------
    images : numpy.ndarray
        ``(n, C, H, W)``, uint8 or another type of `data_pipeline.values`. A source may hand over a lazy sequence instead: it has
        ``__len__``, and a slice of it is such an array.
    labels : numpy.ndarray
        int64, ``(n,)``; -1 where the set has no labels.
    index : numpy.ndarray
        int64, ``(n,)``; positions in the source's split.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter((self.images, self.labels, self.index))


@dataclass(frozen=True)
class Batch:
    """This process's part of one global batch.

    Attributes
    ----------
    images : Tensor
        ``(n, C, H, W)`` as they are stored, uint8 or another type of `data_pipeline.values`;
        n may be 0.
    labels : Tensor
        int64, ``(n,)``; -1 where the set has no labels.
    index : Tensor
        int64, ``(n,)``; positions in the source's split. Stays on the CPU.
    position : Tensor
        int64, ``(n,)``; positions in the global batch, ``0 <= position < size``. Stays on the CPU.
    size : int
        Images in the global batch, over all processes.
    epoch, step : int
        The counters: step counts from 0 within the epoch.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    position: Tensor
    size: int
    epoch: int
    step: int

    def __len__(self) -> int:
        return self.images.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Copy images, which stay as they are stored, and labels to a device."""
        if self.images.device == torch.device(device):
            return self
        return replace(
            self,
            images=self.images.to(device, non_blocking=non_blocking),
            labels=self.labels.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Batch:
        """Copy the tensors to page-locked memory, from which copies to a GPU do not block."""
        return replace(
            self,
            images=self.images.pin_memory(),
            labels=self.labels.pin_memory(),
            position=self.position.pin_memory(),
        )
