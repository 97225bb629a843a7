"""A run's telemetry in a few figures: one summary a rank, compared over the ranks."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table

STRAGGLER_RATIO = 1.25

_PEAKS = {
    "peak_allocated_bytes": "allocator_peak_allocated_bytes",
    "peak_reserved_bytes": "allocator_peak_reserved_bytes",
    "peak_device_bytes": "device_memory_used_bytes",
    "peak_rss_bytes": "process_rss_bytes",
    "peak_temperature_celsius": "device_temperature_celsius",
    "ecc_uncorrected": "device_ecc_uncorrected",
    "allocator_retries": "allocator_retries",
}
_MEANS = {
    "mean_utilization_percent": "device_utilization_percent",
    "mean_memory_utilization_percent": "device_memory_utilization_percent",
    "mean_power_watts": "device_power_watts",
    "mean_sm_clock_mhz": "device_sm_clock_mhz",
    "mean_cpu_percent": "process_cpu_percent",
}
_HARMLESS = frozenset({"gpu_idle", "applications_clocks_setting", "display_clock_setting"})


class Running:
    """Peaks and means over the samples of one rank, in constant memory."""

    def __init__(self) -> None:
        self.samples = 0
        self._peaks: dict[str, float | None] = dict.fromkeys(_PEAKS)
        self._sums: dict[str, tuple[float, int]] = dict.fromkeys(_MEANS, (0.0, 0))
        self._least_free: int | None = None
        self._throttled: dict[str, int] = {}
        self._judged = 0

    def add(self, record: Mapping[str, Any]) -> None:
        """Take one sample in."""
        self.samples += 1
        for name, field in _PEAKS.items():
            value, seen = record.get(field), self._peaks[name]
            if value is not None:
                self._peaks[name] = value if seen is None else max(seen, value)
        for name, field in _MEANS.items():
            if (value := record.get(field)) is not None:
                total, count = self._sums[name]
                self._sums[name] = (total + value, count + 1)
        if (free := record.get("device_memory_free_bytes")) is not None:
            self._least_free = free if self._least_free is None else min(self._least_free, free)
        if (reasons := record.get("device_throttle_reasons")) is not None:
            self._judged += 1
            for reason in set(reasons) - _HARMLESS:
                self._throttled[reason] = self._throttled.get(reason, 0) + 1

    def figures(self) -> dict[str, Any]:
        """Return the summary's part that comes from samples."""
        means = {
            name: total / count if count else None for name, (total, count) in self._sums.items()
        }
        return {
            "samples": self.samples,
            **self._peaks,
            "headroom_bytes": self._least_free,
            **means,
            "throttled_share": (
                {name: count / self._judged for name, count in sorted(self._throttled.items())}
                if self._judged
                else None
            ),
        }


class EnergyMeter:
    """Joules since the run's first sample.

    The driver's counter runs from its own start; a card without one has its power summed
    over time.
    """

    def __init__(self) -> None:
        self.joules: float | None = None
        self.source: str | None = None
        self._first: float | None = None
        self._last_power: tuple[float, float] | None = None

    def since_start(self, record: Mapping[str, Any]) -> float | None:
        """Take one sample in and return the joules so far."""
        counter, watts = record["device_energy_joules"], record["device_power_watts"]
        if counter is not None and self.source != "power":
            self.source = "counter"
            self._first = counter if self._first is None else min(self._first, counter)
            self.joules = counter - self._first
        elif watts is not None and self.source != "counter":
            self.source = "power"
            now = (record["time"], watts)
            then = self._last_power or now
            spent = (now[0] - then[0]) * (now[1] + then[1]) / 2
            self.joules = (self.joules or 0.0) + max(spent, 0.0)
            self._last_power = now
        return self.joules


_OWN_TIME = {
    "work_seconds": "time of its own work a step",
    "step_seconds_p50": "median step time",
}
"""By which figure ranks are compared, the first that all have, and its name in the table."""


def compare(summaries: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Compare the ranks of a run.

    A rank's own time a step is DDP's forward and backward compute time plus its wait for
    data, where DDP measured it on every rank; else the median step time. (In step time alone a
    slow rank does not show: the gradient's reduction makes all ranks as slow.) A rank is a
    straggler when its own time is more than 1.25 times the median of all ranks.

    Parameters
    ----------
    summaries : iterable of dict
        ``Telemetry.summary()`` of each rank.

    Returns
    -------
    dict
        For ``status.json``: totals, peaks, ``slowest_rank``, ``slowest_ratio``, ``slowest_by``
        (the figure that was compared), ``stragglers`` and the summaries themselves under
        ``ranks``.
    """
    ranks = sorted((dict(summary) for summary in summaries if summary), key=lambda s: s["rank"])
    by = next((name for name in _OWN_TIME if len(_values(ranks, name)) == len(ranks)), None)
    times = {s["rank"]: s[by] for s in ranks} if by else {}
    middle = statistics.median_low(times.values()) if times else 0.0
    slowest = max(times, key=lambda rank: times[rank]) if len(times) > 1 else None
    rates = [s["images_per_second"] for s in ranks if s.get("images_per_second") is not None]
    cards: dict[str, float] = {}  # two ranks may share a card: its energy counts once
    for s in ranks:
        if (joules := s.get("energy_joules")) is not None:
            card = s.get("device_card") or f"rank {s['rank']}"
            cards[card] = max(cards.get(card, 0.0), joules)
    energy = sum(cards.values()) if cards else None
    images = sum(s.get("images") or 0 for s in ranks)
    return {
        "images_per_second": sum(rates) if rates else None,
        "images": images,
        "energy_joules": energy,
        "images_per_joule": images / energy if energy else None,
        "data_wait_share": _largest(ranks, "data_wait_share"),
        "mean_utilization_percent": _mean(ranks, "mean_utilization_percent"),
        "peak_allocated_bytes": _largest(ranks, "peak_allocated_bytes"),
        "peak_reserved_bytes": _largest(ranks, "peak_reserved_bytes"),
        "peak_device_bytes": _largest(ranks, "peak_device_bytes"),
        "peak_rss_bytes": _largest(ranks, "peak_rss_bytes"),
        "headroom_bytes": min(_values(ranks, "headroom_bytes"), default=None),
        "slowest_rank": slowest,
        "slowest_ratio": times[slowest] / middle if slowest is not None and middle else None,
        "slowest_by": by if slowest is not None else None,
        "stragglers": [
            rank for rank, t in times.items() if len(times) > 1 and t > STRAGGLER_RATIO * middle
        ],
        "ranks": ranks,
    }


def _values(ranks: Iterable[Mapping[str, Any]], name: str) -> list[Any]:
    return [value for rank in ranks if (value := rank.get(name)) is not None]


def _largest(ranks: Iterable[Mapping[str, Any]], name: str) -> Any:
    return max(_values(ranks, name), default=None)


def _mean(ranks: Iterable[Mapping[str, Any]], name: str) -> float | None:
    values = _values(ranks, name)
    return sum(values) / len(values) if values else None


def show_bytes(value: float | None) -> str:
    """Bytes for the eye, in binary units; a dash for None."""
    if value is None:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def show(value: float | None, form: str = ".1f", unit: str = "") -> str:
    """Format a number for the eye; a dash for None."""
    return "-" if value is None else f"{value:{form}}{unit}"


def show_seconds(value: float | None) -> str:
    """Seconds for the eye, in milliseconds below one."""
    if value is None:
        return "-"
    return f"{value * 1e3:.1f} ms" if value < 1 else f"{value:.2f} s"


_SPEED = ("img/s", "step p50", "p95", "max", "data wait", "util", "power")
_MEMORY = ("device", "allocated", "reserved", "used", "headroom", "rss")
_HEADS = ("rank", _MEMORY[0], *_SPEED, *_MEMORY[1:])


def _cells(rank: Mapping[str, Any], slow: bool) -> dict[str, str]:
    share = rank.get("data_wait_share")
    values = (
        f"{rank['rank']}{' slow' if slow else ''}",
        rank.get("device_name") or rank.get("torch_device") or "-",
        show(rank.get("images_per_second"), ",.0f"),
        show_seconds(rank.get("step_seconds_p50")),
        show_seconds(rank.get("step_seconds_p95")),
        show_seconds(rank.get("step_seconds_max")),
        "-" if share is None else f"{share:.1%}",
        show(rank.get("mean_utilization_percent"), ".0f", " %"),
        show(rank.get("mean_power_watts"), ".0f", " W"),
        show_bytes(rank.get("peak_allocated_bytes")),
        show_bytes(rank.get("peak_reserved_bytes")),
        show_bytes(rank.get("peak_device_bytes")),
        show_bytes(rank.get("headroom_bytes")),
        show_bytes(rank.get("peak_rss_bytes")),
    )
    return dict(zip(_HEADS, values, strict=True))


def table(summaries: Sequence[Mapping[str, Any]]) -> Group:
    """Build the tables of all ranks that end a run: speed, and the memory's peaks.

    Each fits into 80 columns.
    """
    whole = compare(summaries)
    cells = [_cells(rank, rank["rank"] in whole["stragglers"]) for rank in whole["ranks"]]
    speed = _table("Telemetry by rank", _SPEED, cells)
    notes = []
    if whole["images_per_joule"] is not None:
        notes.append(f"{whole['images_per_joule']:.2f} images a joule")
    if whole["slowest_ratio"] is not None:
        notes.append(
            f"slowest rank by {_OWN_TIME[whole['slowest_by']]}: {whole['slowest_rank']}, "
            f"{whole['slowest_ratio']:.2f} x the median of all ranks"
        )
    speed.caption = "; ".join(notes) or None
    tables = []  # nothing is measured of a run that ends before its first step
    if any(row[head] != "-" for row in cells for head in _SPEED):
        tables.append(speed)
    if any(row[head] != "-" for row in cells for head in _MEMORY[1:]):
        tables.append(_table("Memory: peaks", _MEMORY, cells))
    return Group(*tables)


def _table(title: str, heads: Sequence[str], cells: list[dict[str, str]]) -> Table:
    rows = Table(title=title, title_justify="left", caption_justify="left")
    heads = ["rank", *(head for head in heads if any(row[head] != "-" for row in cells))]
    for head in heads:
        name = head == "device"
        rows.add_column(head, justify="left" if name else "right", no_wrap=not name)
    for row in cells:
        slow = row["rank"].endswith("slow")
        rows.add_row(*(row[head] for head in heads), style="yellow" if slow else None)
    return rows
