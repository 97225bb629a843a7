"""Loops that train turn by turn, so that several can be timed in alternation."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch

WARM_STEPS = 12


class Turns:
    """Lets a loop run while it is its turn, and counts what it does.

    Parameters
    ----------
    answers : text file
        Where to say what a turn gave.
    """

    def __init__(self, answers: Any) -> None:
        self.answers = answers
        self.length: float | None = None  # of this turn; None: warming up
        self.images, self.steps, self.seconds = 0, 0, 0.0

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches of an epoch."""
        images, since = 0, None
        for batch in batches:
            if since is not None:
                self.images, self.steps = self.images + images, self.steps + 1
                self.seconds += time.perf_counter() - since
                self._look()
            images, since = count_images(batch), time.perf_counter()
            yield batch

    def _look(self) -> None:
        if self.length is None and self.steps < WARM_STEPS:
            return
        if self.length is not None and self.seconds < self.length:
            return
        if torch.cuda.is_available():
            begun = time.perf_counter()
            torch.cuda.synchronize()
            self.seconds += time.perf_counter() - begun
        told = {"images": self.images, "steps": self.steps, "seconds": self.seconds}
        self.answers.write("ready\n" if self.length is None else json.dumps(told) + "\n")
        self.answers.flush()
        line = sys.stdin.readline()
        if not line:
            os._exit(0)  # the loops here have no end of their own
        self.length = float(line)
        self.images, self.steps, self.seconds = 0, 0, 0.0


def count_images(batch: Any) -> int:
    """Images of a batch, in the form of any of the libraries."""
    if isinstance(batch, dict):
        return len(batch["data"])
    return len(batch[0] if isinstance(batch, list | tuple) else batch)


def through_data_loader(turns: Turns) -> None:
    """Let the training loader of a library that uses torch's run turn by turn."""
    loader = torch.utils.data.DataLoader
    plain = loader.__iter__
    first: list[Any] = []  # the loader that trains

    def iterate(self: Any) -> Any:
        first[:] = first or [self]
        return turns.over(plain(self)) if first[0] is self else plain(self)

    loader.__iter__ = iterate  # type: ignore[method-assign]
