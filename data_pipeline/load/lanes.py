"""Pure arithmetic of the stream loader: which image stands where in an epoch.

An epoch permutes the shards, then the blocks within each shard, and lays them end to end.
That sequence of N images is cut in L lanes of equal length (lane l has N // L images, and
one more if l < N % L). The image at position p of the epoch comes from lane p % L, place
p // L; global batch i is positions [i * B, (i + 1) * B). Within a lane, windows of some
consecutive blocks are permuted image by image.

So the k-th image of every lane is known without reading any: a rank or worker owns whole
lanes, and an epoch begins anywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data_pipeline.folder.manifest import Shard
from data_pipeline.order import World, derive_seed, permutation


@dataclass(frozen=True)
class BlockTable:
    """The blocks of a split, in the order in which they were written.

    Attributes
    ----------
    shard : numpy.ndarray
        Of each block, its shard's place in the list.
    number : numpy.ndarray
        Of each block, its place in its shard.
    count : numpy.ndarray
        Of each block, its images.
    """

    shard: np.ndarray
    number: np.ndarray
    count: np.ndarray

    @classmethod
    def of(
        cls, shards: Sequence[Shard], block_size: int, exclude: Collection[str] = frozenset()
    ) -> BlockTable:
        """The table of a split's shards, without some of them."""
        shard, number, count = [], [], []
        for place, entry in enumerate(shards):
            if entry.name in exclude:
                continue
            starts = np.arange(0, entry.count, block_size)
            shard.append(np.full(len(starts), place))
            number.append(np.arange(len(starts)))
            count.append(np.minimum(block_size, entry.count - starts))
        if not shard:
            none = np.zeros(0, np.int64)
            return cls(none, none, none)
        return cls(np.concatenate(shard), np.concatenate(number), np.concatenate(count))


class Piece(NamedTuple):
    """Images ``first`` to ``last`` (exclusive) of a block."""

    block: int
    first: int
    last: int


class Window(NamedTuple):
    """Some consecutive pieces of a lane: places ``first`` to ``last``, in a drawn order."""

    first: int
    last: int
    pieces: list[Piece]
    order: np.ndarray


class Epoch:
    """Where every image of one epoch stands.

    Parameters
    ----------
    table : BlockTable
        The blocks.
    lanes : int
        How many lanes the epoch is cut in.
    window : int
        Blocks of a lane whose images are permuted together.
    seed, epoch : int
        Decide the order.
    """

    def __init__(self, table: BlockTable, lanes: int, window: int, seed: int, epoch: int) -> None:
        self.lanes = lanes
        self.window_blocks = window
        self.seed = seed
        self.epoch = epoch
        self.blocks = _block_order(table, seed, epoch)
        self.starts = np.concatenate([[0], np.cumsum(table.count[self.blocks])])
        self.num_images = int(self.starts[-1])

    def lane_bounds(self, lane: int) -> tuple[int, int]:
        """Which images of the epoch's sequence are the lane's."""
        share, rest = divmod(self.num_images, self.lanes)
        return lane * share + min(lane, rest), (lane + 1) * share + min(lane + 1, rest)

    def window(self, lane: int, place: int) -> Window:
        """The window that holds the image at a place of a lane."""
        begin, end = self.lane_bounds(lane)
        assert begin <= begin + place < end
        first_piece = int(np.searchsorted(self.starts, begin, "right")) - 1
        piece = int(np.searchsorted(self.starts, begin + place, "right")) - 1
        number = (piece - first_piece) // self.window_blocks
        low = first_piece + number * self.window_blocks
        pieces = []
        for at in range(low, min(low + self.window_blocks, len(self.blocks))):
            start, stop = int(self.starts[at]), int(self.starts[at + 1])
            if start >= end:
                break
            first, last = max(start, begin), min(stop, end)
            pieces.append(Piece(int(self.blocks[at]), first - start, last - start))
        first = max(int(self.starts[low]), begin) - begin
        last = first + sum(p.last - p.first for p in pieces)
        order = permutation(last - first, self.seed, "window", self.epoch, lane, number)
        return Window(first, last, pieces, order)


def _block_order(table: BlockTable, seed: int, epoch: int) -> np.ndarray:
    """Blocks by shard, the shards in a drawn order, and the blocks of each shard too."""
    key = derive_seed(seed, "blocks", epoch)
    draws = np.random.Generator(np.random.Philox(key=key)).random(len(table.shard))
    shards = permutation(int(table.shard.max(initial=-1)) + 1, seed, "shards", epoch)
    rank = np.argsort(shards)
    return np.lexsort((draws, rank[table.shard]))


def owned_lanes(lanes: int, world: World, worker: int = 0, workers: int = 1) -> np.ndarray:
    """Lanes of one worker of one rank: dealt in turn to the ranks, then to their workers."""
    return np.arange(world.rank, lanes, world.size)[worker::workers]


def lane_positions(
    start: int, size: int, lanes: int, mine: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Which images of a global batch come from the given lanes.

    Parameters
    ----------
    start, size : int
        The batch is positions ``start`` to ``start + size`` of the epoch.
    lanes : int
        How many there are.
    mine : numpy.ndarray
        Some of them, ascending.

    Returns
    -------
    position : numpy.ndarray
        Positions within the batch, ascending.
    slot : numpy.ndarray
        Of each, its lane's place in `mine`.
    """
    offset = (mine - start) % lanes
    order = np.argsort(offset, kind="stable")
    rounds = np.arange(0, size, lanes)[:, None]
    position = (rounds + offset[order]).ravel()
    slot = np.broadcast_to(order, (len(rounds), len(mine))).ravel()
    inside = position < size
    return position[inside], slot[inside]
