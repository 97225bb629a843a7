"""Stopping on a signal, all ranks at the same step.

Light on purpose: handlers are installed before torch is imported, so that a signal during
start-up is kept too.
"""

from __future__ import annotations

import os
import signal
import time
from datetime import timedelta
from types import FrameType
from typing import Any

from data_pipeline.order import World

EXIT_REQUEUE = 75
"""Exit code of a run that a signal or its time limit stopped after a complete checkpoint."""

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR2)


class StopRequest:
    """Remembers that this process was asked to stop.

    Parameters
    ----------
    time_limit : float
        Seconds after which the run stops by itself; 0 means never.

    Notes
    -----
    A second SIGINT raises ``KeyboardInterrupt``, for the person who will not wait.
    """

    def __init__(self, time_limit: float = 0.0) -> None:
        self.reason: str | None = None
        self.time_limit = time_limit
        self.quiet = False  # set where another process of this machine says it
        self._started = time.monotonic()

    def install(self) -> StopRequest:
        """Take over the stop signals of this process."""
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)
        return self

    def _receive(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and self.reason == name:
            raise KeyboardInterrupt
        self.reason = name
        if number == signal.SIGINT and not self.quiet:
            # Not print: the signal may have come in the middle of one.
            os.write(2, b"\nstopping after this step, with a checkpoint; Ctrl-C again: at once\n")

    @property
    def requested(self) -> bool:
        """Whether a signal has come or the time is up."""
        if self.reason is None and 0 < self.time_limit < time.monotonic() - self._started:
            self.reason = "time limit"
        return self.reason is not None


POLL_SECONDS = 0.1
"""How often, about, the ranks exchange whether to stop."""
MOST_CALLS = 32


class Agreement:
    """Lets all ranks see a stop request at the same call of `poll`.

    Some calls start a reduction over a gloo group on the CPU and read the one that was started
    before: nothing waits for the accelerator, and no rank for another. The slowest rank's time
    for a call is reduced too, and all ranks count from it how many calls later the next one is
    due, so that fast steps do not pay for it. A rank that waits longer than `timeout` seconds
    for the others fails.
    """

    def __init__(self, request: StopRequest, world: World, timeout: float = 600.0) -> None:
        self._request = request
        self._size = world.size
        self._pending: tuple[Any, Any] | None = None
        self._group: Any = None
        self._calls = self._due = 1
        self._since = time.monotonic()
        if world.size > 1:
            import torch.distributed as dist

            self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))

    def poll(self) -> bool:
        """Whether all ranks stop here. Every rank must call this equally often."""
        if self._size == 1:
            return self._request.requested
        self._calls -= 1
        if self._calls:
            return False
        import torch
        import torch.distributed as dist

        each = (time.monotonic() - self._since) / self._due
        told = torch.tensor([float(self._request.requested), each], dtype=torch.float64)
        work = dist.all_reduce(told, dist.ReduceOp.MAX, group=self._group, async_op=True)
        before, self._pending = self._pending, (work, told)
        stop = before is not None and self._finish(before)
        self._calls, self._since = self._due, time.monotonic()
        return stop

    def settle(self) -> bool:
        """Finish what `poll` started; call at a point that every rank passes."""
        before, self._pending = self._pending, None
        self._calls = self._due = 1
        return before is not None and self._finish(before)

    def _finish(self, pending: tuple[Any, Any]) -> bool:
        work, told = pending
        work.wait()
        stop, each = told.tolist()
        self._due = max(1, min(MOST_CALLS, int(POLL_SECONDS / max(each, 1e-6))))
        if stop and self._request.reason is None:
            self._request.reason = "another rank"
        return bool(stop)
