"""Reads a run folder while it is being written, also over a shared file system."""

from __future__ import annotations

import dataclasses
import re
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.records import parse_json, read_json, read_record

TAIL_BYTES = 1 << 18
KEPT = 240


@dataclasses.dataclass(frozen=True, kw_only=True)
class Figures:
    """What is shown of a line of ``metrics.jsonl``."""

    split: str
    step: int | None = None
    epoch: float | None = None
    loss: float | None = None
    recon: float | None = None
    kl: float | None = None
    ssim: float | None = None
    lr: float | None = None
    images_per_second: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sample:
    """What is shown of a line of ``telemetry.jsonl``."""

    rank: int
    time: float = 0.0
    device_index: int | None = None
    device_uuid: str | None = None
    device_utilization_percent: float | None = None
    device_memory_used_bytes: float | None = None
    device_memory_total_bytes: float | None = None
    allocator_allocated_bytes: float | None = None
    allocator_retries: int | None = None
    device_power_watts: float | None = None
    device_temperature_celsius: float | None = None
    device_sm_clock_mhz: float | None = None
    device_throttle_reasons: list[str] | None = None
    device_ecc_uncorrected: int | None = None
    images_per_second: float | None = None
    step_seconds_p50: float | None = None
    data_wait_share: float | None = None
    process_cpu_percent: float | None = None
    process_rss_bytes: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Summary:
    rank: int
    device_name: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Telemetry:
    ranks: list[_Summary] = dataclasses.field(default_factory=list)
    stragglers: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Status:
    """What is shown of ``status.json``."""

    state: str = "unknown"
    step: int | None = None
    total_steps: int | None = None
    checkpoint: str | None = None
    reason: str | None = None
    world_size: int | None = None
    telemetry: _Telemetry | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Run:
    batch_size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Interval:
    telemetry_interval: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What is shown of ``config.json``."""

    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    run: _Run = dataclasses.field(default_factory=_Run)
    telemetry: _Interval = dataclasses.field(default_factory=_Interval)


class LineReader:
    """Follows a file of JSON lines: each call returns the objects written since the last.

    A line that is not whole yet waits for the next call; one that a kill cut short or that is
    damaged is skipped; a file that was written anew is read from its start. A long file is
    first read from near its end.

    Parameters
    ----------
    path : Path
    kind : type
        A dataclass that the fields of a line must fit.
    """

    def __init__(self, path: Path, kind: type) -> None:
        self.path, self._kind = path, kind
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
                value = parse_json(line, str(self.path))
                read_record(self._kind, value, str(self.path), ignore_unknown=True)
            except UserError:
                continue
            objects.append(value)
        return objects, anew


class Rank:
    """The samples of one rank: the last few, and when the newest came."""

    def __init__(self, path: Path) -> None:
        self.reader = LineReader(path, Sample)
        self.records: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self._came: float | None = None

    def update(self) -> None:
        """Take in what was written since."""
        first = self._came is None
        records, anew = self.reader.read()
        if anew:
            self.records.clear()
        self.records.extend(records)
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

    def __init__(self, folder: Path, bring: Callable[[], object] = lambda: None) -> None:
        if not (folder / "status.json").is_file():
            raise UserError(f"{folder}: not a run folder (no status.json there)")
        self.folder, self._bring = folder, bring
        self.status: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.train: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.val: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.ranks: dict[int, Rank] = {}
        self._metrics = LineReader(folder / "metrics.jsonl", Figures)

    def update(self) -> None:
        """Read what changed."""
        self._bring()
        self.status = self._json("status.json", Status) or self.status
        self.config = self.config or self._json("config.json", Config) or {}
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
            if rank < size and rank not in self.ranks:  # others are of a larger world before
                self.ranks[rank] = Rank(path)
        for rank in [rank for rank in self.ranks if rank >= size]:
            del self.ranks[rank]
        for one in self.ranks.values():
            one.update()

    def _json(self, name: str, kind: type) -> dict[str, Any] | None:
        path = self.folder / name
        try:
            value = read_json(path)
        except UserError:  # not there yet, or half there on a shared file system
            return None
        read_record(kind, value, str(path), ignore_unknown=True)
        return value

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
