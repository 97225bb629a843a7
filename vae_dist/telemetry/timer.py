"""Seconds and peak memory of one stage of work."""

from __future__ import annotations

import threading
import time
from types import TracebackType

import psutil
import torch

_active: list[StageTimer] = []


def _peak_rss() -> int | None:
    """The kernel's high-water mark of this process, where /proc has one."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as lines:
            for line in lines:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


class StageTimer:
    """Measure a stage: ``with StageTimer(device) as t: ...``; timers may be nested.

    Parameters
    ----------
    device : torch.device or str or None
        Where the stage computes. A CUDA device is synchronised on entry and exit.
    interval : float
        Seconds between two looks at memory that has no exact peak counter.

    Attributes
    ----------
    seconds : float
        Wall time.
    peak_memory_bytes : int or None
        On CUDA the peak of torch's allocator in the stage (exact). On the CPU the peak
        resident memory of the process: exact when the stage set a new record of the
        process, else the largest of the samples.
    peak_device_bytes : int or None
        On CUDA the largest sampled use of the whole device, which contains what other
        libraries (cuML) and other processes hold; None on the CPU.
    memory_kind : str
        What ``peak_memory_bytes`` is: ``"allocator"`` or ``"rss"``.
    """

    def __init__(self, device: torch.device | str | None = None, *, interval: float = 0.02) -> None:
        self.device = torch.device(device or "cpu")
        self.interval = interval
        self.seconds = 0.0
        self.peak_memory_bytes: int | None = None
        self.peak_device_bytes: int | None = None
        self._cuda = self.device.type == "cuda"
        self.memory_kind = "allocator" if self._cuda else "rss"
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def _raise_peak(self, value: int | None) -> None:
        if value is not None:
            self.peak_memory_bytes = max(self.peak_memory_bytes or 0, value)

    def _look(self) -> None:
        if self._cuda:
            free, total = torch.cuda.mem_get_info(self.device)
            self.peak_device_bytes = max(self.peak_device_bytes or 0, total - free)
        else:
            self._raise_peak(psutil.Process().memory_info().rss)

    def _sample(self) -> None:
        while not self._stop.wait(self.interval):
            self._look()

    def __enter__(self) -> StageTimer:
        if self._cuda:
            torch.cuda.synchronize(self.device)
            peak = torch.cuda.max_memory_allocated(self.device)
            for timer in _active:  # resetting the counter would lose what they have seen
                if timer.device == self.device:
                    timer._raise_peak(peak)
            torch.cuda.reset_peak_memory_stats(self.device)
        self._mark = _peak_rss()
        _active.append(self)
        self._look()
        self._thread = threading.Thread(target=self._sample, daemon=True, name="stage-timer")
        self._thread.start()
        self._start = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._cuda and kind is None:
            torch.cuda.synchronize(self.device)
        self.seconds = time.perf_counter() - self._start
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._look()
        _active.remove(self)
        if self._cuda:
            peak = torch.cuda.max_memory_allocated(self.device)
            self._raise_peak(peak)
            for timer in _active:
                if timer.device == self.device:
                    timer._raise_peak(peak)
        else:
            mark = _peak_rss()
            if mark is not None and (self._mark is None or mark > self._mark):
                self._raise_peak(mark)
