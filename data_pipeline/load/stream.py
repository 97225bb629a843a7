"""The loader that reads shards as it goes, with a bounded buffer."""

from __future__ import annotations

import signal
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from data_pipeline.batch import Batch
from data_pipeline.errors import UserError
from data_pipeline.folder.opening import DataFolder, joined
from data_pipeline.load.base import Loader
from data_pipeline.load.buffer import BlockReader, LaneBuffer
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.crop import Crop
from data_pipeline.load.lanes import Epoch, Piece, lane_positions, owned_lanes
from data_pipeline.order import World, batch_slice
from data_pipeline.values import movable


class StreamLoader(Loader):
    """Batches read from the shards while they are needed.

    With `shuffle` the epoch is cut in lanes (see ``data_pipeline.load.lanes``), of which each
    rank and each worker owns some; without, each rank reads its part of each global batch
    in the order in which the images were written.
    """

    mode = "stream"

    def __init__(
        self,
        data: DataFolder,
        split: str,
        config: LoaderConfig,
        world: World,
        batch_size: int,
        seed: int,
        shuffle: bool,
        exclude: Collection[str],
        reason: str,
        crop: Crop | None = None,
    ) -> None:
        assert crop is None or shuffle  # only training crops
        if shuffle and config.lanes < world.size:
            raise UserError(
                f"--lanes {config.lanes}: must be at least the number of processes ({world.size})"
            )
        self.reader = BlockReader(data, split, exclude)
        super().__init__(int(self.reader.table.count.sum()), batch_size, world, config, reason)
        self.image_shape = data.manifest.image_shape
        self.dtype = getattr(torch, data.manifest.dtype)
        self.seed = seed
        self.shuffle = shuffle
        self.crop = crop

    @property
    def in_background(self) -> bool:
        return self.config.workers == 0  # worker processes are ahead by themselves

    def read(self, epoch: int, start: int) -> Iterator[Batch]:
        workers = self.config.workers
        if workers == 0:
            yield from self.parts(epoch, start, 0, 1)
            return
        parts = DataLoader(
            _Parts(self, epoch, start),
            batch_size=None,
            num_workers=workers,
            worker_init_fn=_leave_stopping_to_the_trainer,
        )
        turn = []
        for part in _of_living_workers(parts):  # they take turns, in a fixed order
            if isinstance(part, UserError):
                raise part
            turn.append(part)
            if not self.shuffle:
                yield turn.pop()
            elif len(turn) == workers:
                yield _join(turn)
                turn = []

    def parts(self, epoch: int, start: int, worker: int, workers: int) -> Iterator[Batch]:
        """What one of several workers contributes: its lanes' part of each step, or its steps."""
        if self.shuffle:
            return self._lane_parts(epoch, start, worker, workers)
        return self._ordered(epoch, range(start + worker, self.steps_per_epoch, workers))

    def _lane_parts(self, epoch: int, start: int, worker: int, workers: int) -> Iterator[Batch]:
        lanes = self.config.lanes
        plan = Epoch(self.reader.table, lanes, self.config.shuffle_window, self.seed, epoch)
        mine = owned_lanes(lanes, self.world, worker, workers)
        longest = -(-self.num_images // lanes)
        width = int(self.reader.table.count.max()) * self.config.shuffle_window
        buffer = LaneBuffer(
            self.reader,
            plan,
            mine,
            min(longest, width),
            self.image_shape,
            self.dtype,
            self.batch_size,
            self.crop,
        )
        for step in range(start, self.steps_per_epoch):
            begin = step * self.batch_size
            size = min(self.batch_size, self.num_images - begin)
            position, slot = lane_positions(begin, size, lanes, mine)
            images, labels, index = buffer.take(slot, (begin + position) // lanes)
            yield Batch(
                images=images.view(self.dtype).view(-1, *self.image_shape),
                labels=labels,
                index=index,
                position=torch.from_numpy(position),
                size=size,
                epoch=epoch,
                step=step,
            )

    def _ordered(self, epoch: int, steps: range) -> Iterator[Batch]:
        ends = np.cumsum(self.reader.table.count)
        for step in steps:
            first, last, size = batch_slice(self.num_images, self.batch_size, step, self.world)
            blocks = range(
                int(np.searchsorted(ends, first, "right")), int(np.searchsorted(ends, last)) + 1
            )
            pieces = []
            for block in blocks if last > first else ():
                begin = int(ends[block] - self.reader.table.count[block])
                stop = min(int(ends[block]), last)
                pieces.append(Piece(block, max(first - begin, 0), stop - begin))
            arrays = joined(self.reader.read(pieces), self.reader.data.manifest)
            begin = step * self.batch_size
            yield Batch(
                images=torch.from_numpy(arrays.images.copy()),
                labels=torch.from_numpy(arrays.labels.copy()),
                index=torch.from_numpy(arrays.index.copy()),
                position=torch.arange(first - begin, last - begin),
                size=size,
                epoch=epoch,
                step=step,
            )


def _of_living_workers(parts: Iterable[Any]) -> Iterator[Any]:
    """What the workers read; that one was killed is told in one line."""
    try:
        yield from parts
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker (pid"):  # not torch's word for it
            raise
        raise UserError(
            f"a reading process was killed, perhaps for memory ({error}); lower --workers, or "
            "resume where the run stopped"
        ) from error


def _leave_stopping_to_the_trainer(worker: int) -> None:
    """Ignore the stop signals, which schedulers and Ctrl-C send to every process of a group.

    The trainer still needs this worker until it has saved, and ends it.
    """
    for name in ("SIGTERM", "SIGINT", "SIGUSR2"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)


class _Parts(IterableDataset):
    """What a worker process runs."""

    def __init__(self, loader: StreamLoader, epoch: int, start: int) -> None:
        self.loader = loader
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[Batch | UserError]:
        info = get_worker_info()
        assert info is not None
        try:
            yield from self.loader.parts(self.epoch, self.start, info.id, info.num_workers)
        except UserError as error:  # raised whole in the main process
            yield error


def _join(parts: list[Batch]) -> Batch:
    """One rank's part of a step from its workers' parts, ascending by position."""
    if len(parts) == 1:
        return parts[0]
    position = torch.cat([part.position for part in parts])
    order = torch.argsort(position)
    return Batch(
        images=movable(torch.cat([part.images for part in parts]))
        .index_select(0, order)
        .view(parts[0].images.dtype),
        labels=torch.cat([part.labels for part in parts]).index_select(0, order),
        index=torch.cat([part.index for part in parts]).index_select(0, order),
        position=position[order],
        size=parts[0].size,
        epoch=parts[0].epoch,
        step=parts[0].step,
    )
