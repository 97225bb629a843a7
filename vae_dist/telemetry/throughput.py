"""Step times, images a second and the share of a step that waits for data."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence

THROUGHPUT_FIELDS = (
    "images_per_second",
    "data_wait_share",
    "step_seconds_p50",
    "step_seconds_p95",
    "step_seconds_max",
)
KEPT_STEPS = 100_000


def quantile(ordered: Sequence[float], q: float) -> float:
    """Quantile of sorted values, by linear interpolation (numpy's default)."""
    place = (len(ordered) - 1) * q
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def step_figures(
    images: int, seconds: float, data_seconds: float, times: Sequence[float]
) -> dict[str, float | None]:
    """Figures of some steps from their totals and their times; None where there are none."""
    if not times or seconds <= 0:
        return dict.fromkeys(THROUGHPUT_FIELDS)
    ordered = sorted(times)
    return {
        "images_per_second": images / seconds,
        "data_wait_share": min(data_seconds / seconds, 1.0),
        "step_seconds_p50": quantile(ordered, 0.5),
        "step_seconds_p95": quantile(ordered, 0.95),
        "step_seconds_max": ordered[-1],
    }


class StepCounter:
    """Counts steps for the next sample and for the whole run.

    Quantiles of the whole run are those of its last 100,000 steps.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._recent: list[tuple[int, float, float]] = []
        self._times: deque[float] = deque(maxlen=KEPT_STEPS)
        self._max = 0.0
        self.steps = 0
        self.images = 0
        self.seconds = 0.0
        self.data_seconds = 0.0

    def add(self, images: int, seconds: float, data_seconds: float) -> None:
        """Count one step; all three are numbers of the host."""
        with self._lock:
            self._recent.append((images, seconds, data_seconds))
            self._times.append(seconds)
            self._max = max(self._max, seconds)
            self.steps += 1
            self.images += images
            self.seconds += seconds
            self.data_seconds += data_seconds

    def take(self) -> dict[str, float | None]:
        """Figures of the steps since the last call."""
        with self._lock:
            recent, self._recent = self._recent, []
        images, seconds, data = (
            (sum(column) for column in zip(*recent, strict=True)) if recent else (0, 0.0, 0.0)
        )
        return step_figures(int(images), seconds, data, [step[1] for step in recent])

    def total(self) -> dict[str, float | None]:
        """Figures of all steps so far."""
        with self._lock:
            times = list(self._times)
            totals = (self.images, self.seconds, self.data_seconds)
            longest = self._max
        figures = step_figures(*totals, times)
        if times:
            figures["step_seconds_max"] = longest
        return figures
