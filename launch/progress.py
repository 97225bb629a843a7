"""Progress of long work: bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

LINE_INTERVAL = 5.0


class PlainProgress:
    """Writes a line for each finding, and at most one every 5 seconds for each task.

    Parameters
    ----------
    stream : file, optional
        Standard error if not given.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.last: dict[str, float] = {}

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.flush()

    def say(self, text: str) -> None:
        """Write a line."""
        print(text, file=self.stream, flush=True)

    def advance(self, task: str, done: int, total: int | None) -> None:
        """Write how far a task is, if the last such line is old or the task is done."""
        now = time.monotonic()
        first = self.last.setdefault(task, now)
        if done == total:
            if self.last.pop(task) != first or first != now:
                self.say(f"{task}: {done:,} of {total:,}")
        elif now - first >= LINE_INTERVAL:
            self.last[task] = now
            self.say(f"{task}: {done:,}" + (f" of {total:,}" if total is not None else ""))


class BarProgress:
    """Draws a bar for each task with rich; findings scroll above the bars."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BarProgress:
        self.bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.bars.stop()

    def say(self, text: str) -> None:
        """Write a line above the bars."""
        self.bars.console.print(text, markup=False, highlight=False)

    def advance(self, task: str, done: int, total: int | None) -> None:
        """Move a task's bar."""
        if task not in self.tasks:
            self.tasks[task] = self.bars.add_task(task, total=total)
        self.bars.update(self.tasks[task], completed=done, total=total)


def make_progress() -> PlainProgress | BarProgress:
    """Bars if standard error is a terminal, else plain lines."""
    return BarProgress() if sys.stderr.isatty() else PlainProgress()
