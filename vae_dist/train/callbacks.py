"""What a program that trains may be called back with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol


class Callback(Protocol):
    """Called by the trainer on the main process alone, with figures reduced over all processes.

    Derive from it and write the methods that you need; the others do nothing. What a method raises
    ends the training.
    """

    def on_start(self) -> None:
        """Training begins, or goes on from a checkpoint."""

    def on_log(self, figures: dict[str, Any]) -> None:
        """Take a training line of ``metrics.jsonl``: ``step``, ``epoch``, ``loss``, ``kl`` ..."""

    def on_validation(self, figures: dict[str, Any]) -> None:
        """Take a validation line of ``metrics.jsonl``."""

    def on_checkpoint(self, path: Path) -> None:
        """Take the folder of a checkpoint that is complete."""

    def on_end(self) -> None:
        """Training is over: done, stopped, or ended by an error."""
