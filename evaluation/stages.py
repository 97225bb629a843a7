"""Seconds and memory of every stage, written down as the work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.results.records import Stage
from vae_dist.telemetry import StageTimer


@dataclass
class Stages:
    """The list that becomes ``stages`` of ``results.json``.

    Parameters
    ----------
    device : str
        Where the stages compute, for memory.
    tell : callable
        Given one line when a stage begins.
    """

    device: str = "cpu"
    tell: Callable[[str], None] = lambda line: None
    done: list[Stage] = field(default_factory=list)

    @contextmanager
    def stage(
        self, name: str, embedding: str | None = None, backend: str = "cpu", note: str | None = None
    ) -> Iterator[Stage]:
        """Time a block; the block may change the record's backend and note."""
        self.tell(f"{name} {embedding}" if embedding else name)
        record = Stage(stage=name, embedding=embedding, backend=backend, seconds=0.0, note=note)
        device = backend if backend.startswith("cuda") else self.device
        timer = StageTimer(device)
        try:
            with timer:
                yield record
        finally:
            record.seconds = timer.seconds
            record.peak_memory_bytes = (
                timer.peak_memory_bytes if device == "cpu" else timer.peak_device_bytes
            )
            self.done.append(record)


def cost(record: Stage) -> dict[str, Any]:
    """Where something was made and what that took, as an `Embedding` says it."""
    return {
        "backend": record.backend,
        "seconds": record.seconds,
        "peak_memory_bytes": record.peak_memory_bytes,
    }


def cost_arrays(record: Stage) -> dict[str, np.ndarray]:
    """The cost as arrays, to keep beside what was made; `cost_of` reads it back."""
    return {name: np.array(value) for name, value in cost(record).items() if value is not None}


def cost_of(kept: dict[str, np.ndarray]) -> dict[str, Any]:
    """What something from the cache cost when it was made."""
    return {
        "backend": str(kept["backend"]),
        "seconds": float(kept["seconds"]),
        "peak_memory_bytes": int(kept.get("peak_memory_bytes", 0)) or None,
    }
