"""Figures of this process and of torch's memory allocator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import psutil
import torch

PROCESS_FIELDS = (
    "process_rss_bytes",
    "process_cpu_percent",
    "process_threads",
    "process_open_files",
)
ALLOCATOR_FIELDS = (
    "allocator_allocated_bytes",
    "allocator_reserved_bytes",
    "allocator_peak_allocated_bytes",
    "allocator_peak_reserved_bytes",
    "allocator_retries",
    "allocator_ooms",
    "allocator_fragmentation",
)


class ProcessReader:
    """Reads RSS, CPU, threads and open file descriptors of this process."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._process.cpu_percent(None)  # the first call only sets the reference point

    def read(self) -> dict[str, float | int | None]:
        """Return the figures of now; CPU is the mean since the last call, 100 a core."""
        process = self._process
        figures: dict[str, float | int | None] = dict.fromkeys(PROCESS_FIELDS)
        readers = (
            lambda: process.memory_info().rss,
            lambda: process.cpu_percent(None),
            process.num_threads,
            process.num_fds,
        )
        with process.oneshot():
            for name, reader in zip(PROCESS_FIELDS, readers, strict=True):
                try:
                    figures[name] = reader()
                except (psutil.Error, OSError, AttributeError):  # num_fds is POSIX only
                    figures[name] = None
        return figures


def allocator_figures(stats: Mapping[str, Any]) -> dict[str, float | int | None]:
    """Pick the figures of a record from ``torch.cuda.memory_stats()``.

    ``allocator_fragmentation`` is the share of the reserved memory that lies in inactive
    parts of split blocks: memory that cannot be given back and that a larger request
    cannot use.
    """
    if not stats:
        return dict.fromkeys(ALLOCATOR_FIELDS)
    reserved = stats.get("reserved_bytes.all.current")
    split = stats.get("inactive_split_bytes.all.current")
    return {
        "allocator_allocated_bytes": stats.get("allocated_bytes.all.current"),
        "allocator_reserved_bytes": reserved,
        "allocator_peak_allocated_bytes": stats.get("allocated_bytes.all.peak"),
        "allocator_peak_reserved_bytes": stats.get("reserved_bytes.all.peak"),
        "allocator_retries": stats.get("num_alloc_retries"),
        "allocator_ooms": stats.get("num_ooms"),
        "allocator_fragmentation": split / reserved if reserved and split is not None else None,
    }


def read_allocator(device: torch.device) -> dict[str, float | int | None]:
    """Read torch's caching allocator; all None where there is none or it is not yet in use."""
    if device.type != "cuda" or not torch.cuda.is_initialized():
        return dict.fromkeys(ALLOCATOR_FIELDS)
    return allocator_figures(torch.cuda.memory_stats(device))
