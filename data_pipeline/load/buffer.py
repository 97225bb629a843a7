"""Blocks of shards as they are read, and the bounded memory in which a stream mixes them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from data_pipeline.batch import Arrays
from data_pipeline.folder.encoded import Box
from data_pipeline.folder.opening import DataFolder
from data_pipeline.load.crop import Crop
from data_pipeline.load.lanes import BlockTable, Epoch, Piece, Window
from data_pipeline.values import movable


class BlockReader:
    """Reads blocks of a split by seeking."""

    def __init__(self, data: DataFolder, split: str, exclude: Collection[str]) -> None:
        self.data = data
        self.shards = data.manifest.split(split).shards
        self.table = BlockTable.of(self.shards, data.manifest.block_size, exclude)

    def read(self, pieces: list[Piece], boxes: Sequence[Box] | None = None) -> list[Arrays]:
        """The images of each piece; `boxes` as of ``DataFolder.read_blocks``."""
        blocks = [
            (self.shards[self.table.shard[p.block]], int(self.table.number[p.block]))
            for p in pieces
        ]
        return self.data.read_blocks(blocks, [slice(p.first, p.last) for p in pieces], boxes)


class LaneBuffer:
    """The current windows of some lanes, in one block of memory of fixed size."""

    def __init__(
        self,
        reader: BlockReader,
        plan: Epoch,
        lanes: np.ndarray,
        width: int,
        image_shape: tuple[int, int, int],
        dtype: torch.dtype,
        batch_size: int,
        crop: Crop | None = None,
    ) -> None:
        self.reader = reader
        self.batch_size = batch_size
        self.crop = crop
        self.plan = plan
        self.lanes = lanes
        self.width = width
        pixels = int(np.prod(image_shape))
        self.images = movable(torch.empty(len(lanes) * width, pixels, dtype=dtype))
        self.labels = torch.empty(len(lanes) * width, dtype=torch.int64)
        self.index = torch.empty(len(lanes) * width, dtype=torch.int64)
        self.rows = np.zeros((len(lanes), width), np.int64)  # where each place's image lies
        self.first = np.zeros(len(lanes), np.int64)  # places that the windows begin at
        self.last = np.zeros(len(lanes), np.int64)

    def take(self, slot: np.ndarray, place: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Images, labels and index at places of lanes; places of a lane only ever ascend."""
        wanted = np.arange(len(slot))
        ready, taken = [], []
        while len(wanted):
            lane, at = slot[wanted], place[wanted]
            here = at < self.last[lane]
            if here.any():
                rows = torch.from_numpy(self.rows[lane[here], at[here] - self.first[lane[here]]])
                ready.append(wanted[here])
                taken.append([held.index_select(0, rows) for held in self._held()])
                wanted, lane, at = wanted[~here], lane[~here], at[~here]
            for which, nearest in zip(*np.unique(lane, return_index=True), strict=True):
                self._fill(int(which), int(at[nearest]))
        if len(ready) == 1:
            images, labels, index = taken[0]
            return images, labels, index
        images, labels, index = (
            held.new_empty(len(slot), *held.shape[1:]) for held in self._held()
        )
        for where, parts in zip(ready, taken, strict=True):
            into = torch.from_numpy(where)
            for whole, part in zip((images, labels, index), parts, strict=True):
                whole.index_copy_(0, into, part)
        return images, labels, index

    def _held(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.images, self.labels, self.index

    def _fill(self, slot: int, place: int) -> None:
        window = self.plan.window(int(self.lanes[slot]), place)
        row = slot * self.width
        self.rows[slot, : len(window.order)] = window.order + row
        for arrays in self.reader.read(window.pieces, self._boxes(window, int(self.lanes[slot]))):
            count = len(arrays.labels)
            held = self.images[row : row + count].numpy()
            held.view(arrays.images.dtype)[:] = arrays.images.reshape(count, -1)
            self.labels[row : row + count].numpy()[:] = arrays.labels
            self.index[row : row + count].numpy()[:] = arrays.index
            row += count
        self.first[slot], self.last[slot] = window.first, window.last

    def _boxes(self, window: Window, lane: int) -> list[Box] | None:
        """Of each piece, what is read of its pictures: where they will stand is known before."""
        if self.crop is None:
            return None
        place = np.empty(len(window.order), np.int64)
        place[window.order] = np.arange(window.first, window.last)
        step, position = np.divmod(place * self.plan.lanes + lane, self.batch_size)
        ends = np.cumsum([piece.last - piece.first for piece in window.pieces])
        return [
            self.crop.boxes(self.plan.epoch, steps, positions)
            for steps, positions in zip(
                np.split(step, ends[:-1]), np.split(position, ends[:-1]), strict=True
            )
        ]
