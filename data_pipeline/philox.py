"""Counter-based random numbers: the same bits on every device, in any split of a batch.

Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3",
2011) in integer tensor operations. A draw is a pure function of a key, which stands for a seed
and a purpose, and of a counter of four words: position in the global batch, column, step, epoch.
torch's own generators are not: what they draw on a GPU depends on its number of multiprocessors.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from data_pipeline.batch import Batch
from data_pipeline.order import derive_seed

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10
WORD = 0xFFFFFFFF


def philox(counter: tuple[Tensor, ...], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Philox4x32-10.

    Parameters
    ----------
    counter : four Tensors
        int64, each value a 32-bit word; their shapes broadcast.
    key : two int
        32-bit words.

    Returns
    -------
    four Tensors
        int64, random words of 32 bits.
    """
    a, b, c, d = torch.broadcast_tensors(*counter)
    for turn in range(ROUNDS):
        first, second = ((k + turn * w) & WORD for k, w in zip(key, WEYL, strict=True))
        # A product has 64 bits, of which int64 keeps every one. b and d enter the next round by
        # xor alone, so their upper halves need no mask of their own.
        low, high = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a = (high >> 32).bitwise_xor_(b).bitwise_xor_(first).bitwise_and_(WORD)
        c = (low >> 32).bitwise_xor_(d).bitwise_xor_(second).bitwise_and_(WORD)
        b, d = high, low
    return a, b & WORD, c, d & WORD


def uniform(word: Tensor) -> Tensor:
    """Of random words the multiples of 2^-24 in [0, 1), float32."""
    return (word >> 8).float() * 2.0**-24


def normal(word: Tensor) -> Tensor:
    """Of random words standard normal numbers, float32, up to 6.3 from the mean.

    The last bit is the sign; the word with that bit set, over 2^33, is the tail's probability.
    Between the entries of a table, 256 for each power of two of that probability, the quantile is
    interpolated linearly, less than 3e-6 off. Integer operations, exact conversions, one exact
    product and one rounded sum: compilers may fuse the two and the bits stay the same.
    """
    start, slope = _quantiles(word.device)
    bits = (word | 1).double().view(torch.int64)  # exact, for a double has 53 bits
    cell = (bits >> 44).sub_(1023 << 8).add_((word & 1).mul_(CELLS)).flatten()
    within = (bits >> 31).bitwise_and_(0x1FFF).bitwise_or_(1).float().flatten()
    interpolated = slope.index_select(0, cell).mul_(within).add_(start.index_select(0, cell))
    return interpolated.view(word.shape)


CELLS = 32 * 256


@functools.cache
def _quantiles(device: torch.device) -> tuple[Tensor, Tensor]:
    """Quantiles at the cells' beginnings, and their change over 1/8192 of a cell, in 11 bits."""
    if device.type == "meta":
        return torch.empty(2 * CELLS, device=device), torch.empty(2 * CELLS, device=device)
    edges = [2.0 ** (i // 256) * (1 + i % 256 / 256) / 2**33 for i in range(CELLS + 1)]
    values = [-NormalDist().inv_cdf(edge) for edge in edges]
    slopes = []
    for here, there in itertools.pairwise(values):
        mantissa, exponent = math.frexp((there - here) / 8192)
        slopes.append(math.ldexp(round(mantissa * 2048), exponent - 11))
    start, slope = torch.tensor(values[:-1]), torch.tensor(slopes)
    return torch.cat([start, -start]).to(device), torch.cat([slope, -slope]).to(device)


def draws_at(
    seed: int, purpose: str, columns: int, epoch: int, step: np.ndarray, position: np.ndarray
) -> Tensor:
    """What `Draws` gives in the form `uniform`, of single images of an epoch.

    Parameters
    ----------
    seed, purpose, columns
        As of `Draws`.
    epoch : int
    step, position : numpy.ndarray
        int64, (n,), of each image: its step and its position in the global batch.

    Returns
    -------
    Tensor
        float32, (n, columns), on the CPU.
    """
    key = derive_seed(seed, purpose)
    counter = (
        torch.from_numpy(position)[:, None],
        torch.arange(-(-columns // 4)),
        torch.from_numpy(step)[:, None],
        torch.full((), epoch),
    )
    words = torch.stack(philox(counter, (key & WORD, key >> 32)), dim=-1)
    return uniform(words.flatten(1)[:, :columns])


AHEAD = 32
"""Largest number of steps that are drawn at once."""


class Draws:
    """Random numbers of the images of a batch, each from its position in the global batch.

    A process draws those of its own images alone. Because a draw depends on the counters and on
    nothing else, those of some steps to come are made in the same operations, which costs
    about as much as those of one.

    Parameters
    ----------
    seed : int
        The run's seed.
    purpose : str
        Names the stream (``"noise"``, ``"augment"`` ...).
    columns : int
        Numbers an image.
    device : torch.device
        Where they are wanted.
    form : callable
        `normal` or `uniform`.
    """

    def __init__(
        self,
        seed: int,
        purpose: str,
        columns: int,
        device: torch.device,
        form: Callable[[Tensor], Tensor] = normal,
    ) -> None:
        key = derive_seed(seed, purpose)
        self.key = key & WORD, key >> 32
        self.columns, self.device, self.form = columns, device, form
        self._room = 1 << (15 if device.type == "cpu" else 20)  # counters at a time
        self._position = torch.empty(0, dtype=torch.int64)
        self._epoch, self._first = -1, 0
        self._block = torch.empty(0)

    def __call__(self, batch: Batch) -> Tensor:
        """float32 (n, columns) of a batch, on the device."""
        ahead = batch.step - self._first
        if not (
            batch.epoch == self._epoch
            and 0 <= ahead < len(self._block)
            and (batch.position is self._position or torch.equal(batch.position, self._position))
        ):
            self._draw(batch)
            ahead = 0
        return self._block[ahead]

    def _draw(self, batch: Batch) -> None:
        count, quads = len(batch.position), -(-self.columns // 4)
        steps = min(AHEAD, max(1, self._room // max(1, count * quads)))
        rows = max(1, self._room // (steps * quads))
        position = batch.position.to(self.device, non_blocking=True)
        step = torch.arange(batch.step, batch.step + steps, device=self.device)
        column = torch.arange(quads, device=self.device)
        epoch = torch.full((), batch.epoch, device=self.device)
        parts = [
            self.form(
                torch.stack(
                    philox((part[:, None], column, step[:, None, None], epoch), self.key), dim=-1
                ).flatten(2)[..., : self.columns]
            )
            for part in position.split(rows)
        ]
        self._block = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        self._position, self._epoch, self._first = batch.position, batch.epoch, batch.step
