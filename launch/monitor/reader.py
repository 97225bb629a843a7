"""Reads a run folder while it is being written, also over a shared file system."""

from __future__ import annotations

import json
import re
import time
from collections import deque
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError

TAIL_BYTES = 1 << 18
KEPT = 240


class LineReader:
    """Follows a file of JSON lines: each call returns the objects written since the last.

    A line that is not whole yet waits for the next call; one that a kill cut short is left
    out; a file that was written anew is read from its start. A long file is first read from
    near its end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0
        self._rest = b""

    def read(self) -> tuple[list[dict[str, Any]], bool]:
        """Return the new objects, and whether the file was begun anew."""
        try:
            with open(self.path, "rb") as file:  # opened each time: NFS then looks at the server
                size = file.seek(0, 2)
                anew = size < self._offset
                if anew:
                    self._offset, self._rest = 0, b""
                start = self._offset
                if not start and size > TAIL_BYTES:
                    start = size - TAIL_BYTES
                file.seek(start)
                text = file.read(size - start)
        except OSError:
            return [], False
        self._offset = size
        *lines, self._rest = (self._rest + text).split(b"\n")
        objects = []
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                objects.append(value)
        return objects, anew


class Rank:
    """The samples of one rank: the last few, and when the newest came."""

    def __init__(self, path: Path) -> None:
        self.reader = LineReader(path)
        self.records: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._came: float | None = None

    def update(self) -> None:
        """Take in what was written since."""
        first = self._came is None
        records, anew = self.reader.read()
        if anew:
            self.records.clear()
        self.records.extend(record for record in records if "rank" in record)
        if not records:
            return
        self._came = time.monotonic()
        if first:  # afterwards by our clock alone: hosts' clocks differ
            self._came -= max(time.time() - float(records[-1].get("time", 0.0)), 0.0)

    @property
    def age(self) -> float | None:
        """Seconds since the newest sample."""
        return None if self._came is None else time.monotonic() - self._came

    def steady(self, field: str, count: int = 10) -> float | None:
        """Mean of a field over the last samples that have it."""
        values = [r[field] for r in list(self.records)[-count:] if r.get(field) is not None]
        return sum(values) / len(values) if values else None


class RunReader:
    """A run as far as its files tell.

    Parameters
    ----------
    folder : Path
        A run folder.

    Raises
    ------
    ValueError
        If it is not one.
    """

    def __init__(self, folder: Path) -> None:
        if not (folder / "status.json").is_file():
            raise UserError(f"{folder}: not a run folder (no status.json there)")
        self.folder = folder
        self.status: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.train: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.val: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.ranks: dict[int, Rank] = {}
        self._metrics = LineReader(folder / "metrics.jsonl")

    def update(self) -> None:
        """Read what changed."""
        self.status = self._json("status.json") or self.status
        self.config = self.config or self._json("config.json") or {}
        records, anew = self._metrics.read()
        if anew:
            self.train.clear()
            self.val.clear()
        for record in records:
            (self.val if record.get("split") == "val" else self.train).append(record)
        size = self.status.get("world_size") or 10**6
        for path in self.folder.glob("telemetry*.jsonl"):
            match = re.fullmatch(r"telemetry(?:-rank(\d+))?\.jsonl", path.name)
            rank = int(match[1] or 0) if match else size
            if rank < size and rank not in self.ranks:  # of a larger world before: left out
                self.ranks[rank] = Rank(path)
        for rank in [rank for rank in self.ranks if rank >= size]:
            del self.ranks[rank]
        for one in self.ranks.values():
            one.update()

    def _json(self, name: str) -> dict[str, Any] | None:
        try:
            value = json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return value if isinstance(value, dict) else None

    @property
    def ended(self) -> bool:
        """Whether the run says that it is over."""
        return self.status.get("state") in ("done", "stopped", "failed")

    @property
    def interval(self) -> float:
        """Seconds between two samples."""
        return float(self.config.get("telemetry", {}).get("telemetry_interval", 1.0))

    @property
    def silent(self) -> dict[int, float]:
        """Ranks that should write and have not for a while, and for how long."""
        if self.ended:
            return {}
        limit = max(10.0, 5 * self.interval)
        return {n: age for n, r in self.ranks.items() if (age := r.age) is not None and age > limit}
