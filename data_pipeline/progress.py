"""How long work shows how far it is: a small contract, and one that shows nothing."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told of what happens; ``launch`` draws bars or prints lines from it."""

    def say(self, text: str) -> None:
        """One finding worth a line."""

    def advance(self, task: str, done: int, total: int | None) -> None:
        """`task` has come to `done` of `total` (None where the end is not known)."""


class Silent:
    """Tells nobody."""

    def say(self, text: str) -> None:
        """Drop the line."""

    def advance(self, task: str, done: int, total: int | None) -> None:
        """Drop the figure."""
