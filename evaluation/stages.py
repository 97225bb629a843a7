"""Seconds and memory of every stage, written down as the work is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.results.records import Stage
from vae_dist.telemetry import StageTimer

DOING = {
    "encode": "encoding",
    "pca": "fitting PCA",
    "neighbour graph": "finding neighbours for",
    "umap": "fitting UMAP",
    "whiten": "whitening",
    "concat": "joining embeddings of",
    "ensemble": "joining the runs",
    "measure": "measuring",
    "distances": "comparing images of",
    "map": "drawing the map of",
    "pictures": "drawing images of",
    "report": "writing figures and report",
}
"""What a stage does, for the terminal."""


@dataclass
class Stages:
    """The list that becomes ``stages`` of ``results.json``.

    Parameters
    ----------
    device : str
        Where the stages compute, for memory.
    tell : callable
        Given a line that ends with "…" when a stage begins, and the same line with its seconds
        when it ends: "[4/11] fitting PCA … 1.4 s". A stage within another one is part of that
        one's line.
    """

    device: str = "cpu"
    tell: Callable[[str], None] = lambda line: None
    done: list[Stage] = field(default_factory=list)
    _begun: int = 0
    _total: int = 0  # 0: not known
    _inside: bool = False

    def plan(self, remaining: int) -> None:
        """Say how many stages are still to come; those that are not needed count as begun."""
        self._total = max(self._total, self._begun + remaining)
        self._begun = self._total - remaining

    @contextmanager
    def stage(
        self, name: str, embedding: str | None = None, backend: str = "cpu", note: str | None = None
    ) -> Iterator[Stage]:
        """Time a block; the block may change the record's backend and note."""
        inside, self._inside = self._inside, True
        if not inside:
            self._begun += 1
            count = f"[{self._begun}/{max(self._total, self._begun)}] " if self._total else ""
            subject = f" {embedding}" if embedding and embedding != name else ""
            line = f"{count}{DOING.get(name, name)}{subject} …"
            self.tell(line)
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
            if not inside:
                self._inside = False
                cached = ", from the cache" if record.backend == "cache" else ""
                self.tell(f"{line} {record.seconds:.1f} s{cached}")


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
    parts: dict[str, Any] = {
        name: float(kept[name]) for name in ("fit_seconds", "transform_seconds") if name in kept
    }
    return {
        "backend": str(kept["backend"]),
        "seconds": float(kept["seconds"]),
        "peak_memory_bytes": int(kept.get("peak_memory_bytes", 0)) or None,
        **parts,
    }
