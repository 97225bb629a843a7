"""The loader that holds a split's images in memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from data_pipeline.batch import Arrays, Batch
from data_pipeline.load.base import Loader
from data_pipeline.load.config import LoaderConfig
from data_pipeline.order import World, batch_slice, permutation
from data_pipeline.values import movable


class MemoryLoader(Loader):
    """Batches gathered from arrays.

    Epoch e walks the permutation that follows from ``(seed, e)``; rank r of R gets the
    contiguous part ``[len * r // R, len * (r + 1) // R)`` of each global batch.
    """

    mode = "memory"

    def __init__(
        self,
        arrays: Arrays,
        batch_size: int,
        world: World,
        seed: int,
        shuffle: bool,
        config: LoaderConfig | None = None,
        reason: str = "memory: asked for",
    ) -> None:
        config = config or LoaderConfig()
        super().__init__(len(arrays.labels), batch_size, world, config, reason)
        self.seed = seed
        self.shuffle = shuffle
        self.image_shape = arrays.images.shape[1:]
        # The images stay in the order in which they were read: sorting them would hold them twice.
        self.rows = torch.from_numpy(np.argsort(arrays.index, kind="stable"))
        images, labels, index = (torch.from_numpy(np.ascontiguousarray(a)) for a in arrays)
        images, labels = images.to(config.held_on), labels.to(config.held_on)
        self.dtype = images.dtype
        self.images = movable(images).reshape(len(images), -1)  # rows: one copy an image
        self.labels = labels
        self.index = index

    def order(self, epoch: int) -> torch.Tensor:
        """Rows in the order of an epoch."""
        if not self.shuffle:
            return self.rows
        return self.rows[torch.from_numpy(permutation(self.num_images, self.seed, "order", epoch))]

    @property
    def data_device(self) -> str:
        return self.config.held_on

    @property
    def in_background(self) -> bool:
        return False  # gathering a batch takes less time than handing it to a thread

    def read(self, epoch: int, start: int) -> Iterator[Batch]:
        order = self.order(epoch)
        held = order.to(self.data_device)
        labels, index = self.labels.index_select(0, held), self.index.index_select(0, order)
        position = torch.empty(0)
        for step in range(start, self.steps_per_epoch):
            first, last, size = batch_slice(self.num_images, self.batch_size, step, self.world)
            rows = held[first:last]
            images = self.images.index_select(0, rows)
            begin = step * self.batch_size
            if len(position) != len(rows) or size != self.batch_size:
                position = torch.arange(first - begin, last - begin)
            yield Batch(
                images=images.view(self.dtype).view(len(rows), *self.image_shape),
                labels=labels[first:last],
                index=index[first:last],
                position=position,
                size=size,
                epoch=epoch,
                step=step,
            )
