"""What is known of the pixel values of some images: range, percentiles, what a scale clips."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

PERCENTILES = (0.1, 99.9)
_SAMPLE = 1 << 20
_CHUNK = 1 << 21


@dataclass(frozen=True)
class Scale:
    """Values that become black and white, and why those; what lies outside is clipped."""

    low: float
    high: float
    why: str = ""
    chosen: bool = False
    """Whether this program chose it from the values."""


@dataclass
class Tally:
    """What is known of the pixel values of some images of one type.

    Integers of up to 16 bits are counted value by value; of other types a sample is kept.
    """

    dtype: np.dtype
    count: int = 0
    low: float = math.inf
    high: float = -math.inf
    unusable: int = 0
    """Values that are not finite."""
    whole: bool = True
    """Whether they are whole numbers."""
    _bins: np.ndarray | None = None
    _sample: list[np.ndarray] = field(default_factory=list)
    _stride: int = 1

    def add(self, values: np.ndarray) -> None:
        """Count more values, of any shape."""
        values = values.reshape(-1)
        for start in range(0, values.size, _CHUNK):  # counting takes eight times its memory
            self._add(values[start : start + _CHUNK])

    def _add(self, values: np.ndarray) -> None:
        self.count += values.size
        if values.dtype.kind == "f":
            finite = np.isfinite(values)
            if not finite.all():
                values = values[finite]
                self.unusable += int(finite.size - values.size)
        if not values.size:
            return
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        if self.whole and values.dtype.kind == "f":
            self.whole = bool((values == np.rint(values)).all())
        if self.dtype.kind == "u" and self.dtype.itemsize <= 2:
            counted = np.bincount(values, minlength=256**self.dtype.itemsize)
            self._bins = counted if self._bins is None else self._bins + counted
        else:
            self._keep(values[:: self._stride].copy())

    def merge(self, other: Tally) -> None:
        """Count what another tally of the same type counted."""
        self.count += other.count
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.unusable += other.unusable
        self.whole = self.whole and other.whole
        if other._bins is not None:
            self._bins = other._bins if self._bins is None else self._bins + other._bins
        for values in other._sample:
            self._keep(values[:: max(1, self._stride // other._stride)])

    def _keep(self, values: np.ndarray) -> None:
        self._sample.append(values)
        while sum(kept.size for kept in self._sample) > _SAMPLE:
            self._sample = [np.concatenate(self._sample)[::2]]
            self._stride *= 2

    def percentiles(self) -> tuple[float, float]:
        """The values at `PERCENTILES`."""
        if self._bins is None:
            low, high = np.percentile(np.concatenate(self._sample), PERCENTILES)
            return float(low), float(high)
        up_to = np.cumsum(self._bins)
        low, high = (int(np.searchsorted(up_to, p / 100 * up_to[-1])) for p in PERCENTILES)
        return low, high

    def outside(self, scale: Scale) -> float:
        """Share of the values that `scale` clips (of a sample, for other than small integers)."""
        if scale.low <= self.low and self.high <= scale.high:
            return 0.0
        if self._bins is None:
            values = np.concatenate(self._sample)
            return float(((values < scale.low) | (values > scale.high)).mean())
        values = np.arange(len(self._bins))
        clipped = (values < scale.low) | (values > scale.high)
        return float(self._bins[clipped].sum() / self._bins.sum())
