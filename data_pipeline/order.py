"""Pure arithmetic: the seeds of everything random, and which images are whose.

Everything random in training follows from ``(seed, epoch, step, position in the
global batch)`` and from nothing else.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


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
            raise ValueError(f"World(rank={self.rank}, size={self.size}): need 0 <= rank < size")


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
