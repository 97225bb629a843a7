"""Pure arithmetic: the seeds of everything random, and which images are whose.

Everything random in training follows from ``(seed, epoch, step, position in the
global batch)`` and from nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from data_pipeline.errors import UserError


@dataclass(frozen=True)
class World:
    """The process group as a value: which process this is, of how many.

    Parameters
    ----------
    rank : int
        Index of this process, ``0 <= rank < size``.
    size : int
        Number of processes.
    """

    rank: int = 0
    size: int = 1

    def __post_init__(self) -> None:
        if self.size < 1 or not 0 <= self.rank < self.size:
            raise UserError(f"World(rank={self.rank}, size={self.size}): need 0 <= rank < size")


def derive_seed(seed: int, purpose: str, *counters: int) -> int:
    """Seed of one random stream, a pure function of its arguments.

    Parameters
    ----------
    seed : int
        The run's seed.
    purpose : str
        Names the stream (``"order"``, ``"noise"``, ``"augment"`` ...), so that two
        streams with the same counters differ.
    *counters : int
        Epoch, step and the like.

    Returns
    -------
    int
        63 bits, fit for ``torch.Generator.manual_seed`` and ``numpy.random.Philox(key=...)``.
    """
    text = ":".join([purpose, str(seed), *map(str, counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def permutation(count: int, seed: int, purpose: str, *counters: int) -> np.ndarray:
    """A permutation of ``range(count)``, a pure function of its arguments (int64)."""
    key = derive_seed(seed, purpose, *counters)
    return np.random.Generator(np.random.Philox(key=key)).permutation(count)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Steps that every rank takes in an epoch; the last batch may be smaller."""
    return -(-num_images // batch_size)


def batch_slice(num_images: int, batch_size: int, step: int, world: World) -> tuple[int, int, int]:
    """Whose positions of the epoch's order form a rank's part of one global batch.

    Returns
    -------
    first, last, size : int
        The rank's part is ``order[first:last]``; `size` images are in the global batch.
    """
    start = step * batch_size
    size = min(batch_size, num_images - start)
    first = start + size * world.rank // world.size
    last = start + size * (world.rank + 1) // world.size
    return first, last, size
