"""What is encoded or decoded: rows of images or latents, in an order that never changes.

Rows are cut in pieces, each of which becomes one part of the result. A piece is worked on by
one process, from its first row on and in chunks of fixed size, so the result does not depend on
how many processes there are.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PIECE = 8192


@dataclass(frozen=True)
class Piece:
    """Some rows that lie one after the other.

    Attributes
    ----------
    split : str
        Which split they are of.
    number : int
        Their place among the pieces of the split.
    first, count : int
        The first row within the split, and how many there are.
    """

    split: str
    number: int
    first: int
    count: int

    @property
    def name(self) -> str:
        """Fit for a file."""
        return f"{self.split}-{self.number:06d}"


@dataclass(frozen=True)
class Chunk:
    """Rows that are computed at once.

    Attributes
    ----------
    values : numpy.ndarray
        Images (n, C, H, W) or latents (n, z).
    labels, index : numpy.ndarray
        int64 (n,): -1 where there is no label; the position in the source.
    names : numpy.ndarray, optional
        Unicode (n,): the files that they came from.
    """

    values: np.ndarray
    labels: np.ndarray
    index: np.ndarray
    names: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


class Rows(ABC):
    """Images or latents to work on.

    Attributes
    ----------
    name : str
        Of the set.
    identity : str
        Differs where the rows differ.
    classes : list of str
        Names of the labels.
    splits : dict of str to int
        Rows in each split.
    shape : tuple of int
        Of one row.
    """

    name: str
    identity: str
    classes: list[str]
    splits: dict[str, int]
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """Rows in all."""
        return sum(self.splits.values())

    def pieces(self) -> list[Piece]:
        """All pieces, in order."""
        return [
            Piece(split, number, first, min(PIECE, count - first))
            for split, count in self.splits.items()
            for number, first in enumerate(range(0, count, PIECE))
        ]

    @abstractmethod
    def blocks(self, piece: Piece) -> Iterator[Chunk]:
        """The rows of a piece in order, in blocks as they come."""

    def name_lines(self) -> bytes:
        """Lines of the ``names.jsonl`` that the rows come with; others have names in `blocks`."""
        return b""

    def chunks(self, piece: Piece, size: int) -> Iterator[Chunk]:
        """The rows of a piece in order, `size` at a time (the last time fewer)."""
        waiting: list[Chunk] = []
        held = 0
        for block in self.blocks(piece):
            while len(block):
                taken, block = _cut(block, size - held)
                waiting.append(taken)
                held += len(taken)
                if held == size:
                    yield _joined(waiting)
                    waiting, held = [], 0
        if waiting:
            yield _joined(waiting)


def _cut(block: Chunk, at: int) -> tuple[Chunk, Chunk]:
    if at >= len(block):
        return block, Chunk(block.values[:0], block.labels[:0], block.index[:0])
    parts = []
    for part in (slice(0, at), slice(at, None)):
        names = None if block.names is None else block.names[part]
        parts.append(Chunk(block.values[part], block.labels[part], block.index[part], names))
    return parts[0], parts[1]


def _joined(chunks: list[Chunk]) -> Chunk:
    if len(chunks) == 1:
        return chunks[0]
    names = [chunk.names for chunk in chunks if chunk.names is not None]
    return Chunk(
        np.concatenate([chunk.values for chunk in chunks]),
        np.concatenate([chunk.labels for chunk in chunks]),
        np.concatenate([chunk.index for chunk in chunks]),
        np.concatenate(names) if names else None,
    )
