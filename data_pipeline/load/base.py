"""What every loader is: a split's images as global batches, of which each process gets its part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Any

import torch

from data_pipeline.batch import Batch
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.prefetch import prefetch
from data_pipeline.order import World, steps_per_epoch

Gather = Callable[[Any], list[Any]]
"""Collects a value from every process, in the order of their ranks."""


class Loader(ABC):
    """A split's images as global batches.

    Attributes
    ----------
    mode : str
        ``"memory"`` or ``"stream"``.
    reason : str
        Why this mode; for the log.
    num_images : int
        Images an epoch, over all processes.
    steps_per_epoch : int
        Steps every process takes in an epoch.
    excluded : list of str
        Shards that are not read.
    """

    mode: str

    def __init__(
        self, num_images: int, batch_size: int, world: World, config: LoaderConfig, reason: str
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.world = world
        self.config = config
        self.reason = reason
        self.steps_per_epoch = steps_per_epoch(num_images, batch_size)
        self.excluded: list[str] = []

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """This process's parts of an epoch's global batches.

        Parameters
        ----------
        epoch : int
            Decides the order.
        start : int
            Step to begin at; what comes before is not read.

        Yields
        ------
        Batch
            One for each step from `start` on; it may hold no images.
        """
        batches = self.read(epoch, start)
        if self.config.pin_memory and self.data_device == "cpu" and torch.cuda.is_available():
            batches = (batch.pin_memory() for batch in batches)
        if self.in_background and self.config.prefetch:
            batches = prefetch(batches, self.config.prefetch)
        return batches

    @property
    def data_device(self) -> str:
        """Device on which batches come out."""
        return "cpu"

    @property
    def in_background(self) -> bool:
        """Whether batches are made ready by a thread."""
        return True

    @abstractmethod
    def read(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches, made when asked for."""
