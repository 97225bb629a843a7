"""Whether a statement holds, from the figures of several seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from launch.ablate.study import Statement

HELD, NOT, OPEN, DEPENDS, MISSING = "held", "did not hold", "not decided", "depends", "no figures"


@dataclass(frozen=True)
class Interval:
    """A mean and the ends of its 95 % interval; the ends are NaN for one value."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        """Mean and half width, in three digits behind the point."""
        return self.text(3)

    def text(self, digits: int) -> str:
        """Mean and half width."""
        if math.isnan(self.low):
            return f"{self.mean:.{digits}f}"
        return f"{self.mean:.{digits}f} ± {(self.high - self.low) / 2:.{digits}f}"


def over_seeds(values: Sequence[float]) -> Interval:
    """The 95 % t interval of a mean."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n))
    return Interval(mean, mean - half, mean + half)


def difference(values: Sequence[float], others: Sequence[float]) -> Interval:
    """The 95 % interval of the difference of two means (Welch, 1947)."""
    mean = float(np.mean(values) - np.mean(others))
    if min(len(values), len(others)) < 2:
        return Interval(mean, math.nan, math.nan)
    parts = [float(np.var(each, ddof=1)) / len(each) for each in (values, others)]
    error = math.sqrt(sum(parts))
    if not error:
        return Interval(mean, mean, mean)
    degrees = sum(parts) ** 2 / sum(
        part**2 / (len(each) - 1) for part, each in zip(parts, (values, others), strict=True)
    )
    half = float(stats.t.ppf(0.975, degrees)) * error
    return Interval(mean, mean - half, mean + half)


def judge(statement: Statement, values: Sequence[float], others: Sequence[float]) -> str:
    """Whether a statement holds for one row on one data set.

    Parameters
    ----------
    statement : Statement
    values : sequence of float
        The row's figure, by seed.
    others : sequence of float
        The figure of the row that it is compared with; unused for ``at least``
        and ``at most``.

    Returns
    -------
    str
        held or did not hold where the 95 % interval of the difference lies on one side, else
        not decided; for ``alike``, where it lies within the margin or beyond it.
    """
    if not statement.bound and not others:
        return MISSING
    found = _from_claim(statement, values, others)
    return _side(statement, found.low, found.high)


def seeds_needed(
    statement: Statement, values: Sequence[float], others: Sequence[float], most: int = 100
) -> int | None:
    """The fewest seeds a row that would decide, if means and spreads stayed as they are.

    None where that is more than `most`.
    """
    mean = _from_claim(statement, values, others).mean
    variances = [float(np.var(each, ddof=1)) for each in (values, others) if len(each)]
    for n in range(2, most + 1):
        degrees = (n - 1) * sum(variances) ** 2 / max(sum(v * v for v in variances), 1e-300)
        half = float(stats.t.ppf(0.975, max(degrees, 1))) * math.sqrt(sum(variances) / n)
        if _side(statement, mean - half, mean + half) != OPEN:
            return n
    return None


def _from_claim(statement: Statement, values: Sequence[float], others: Sequence[float]) -> Interval:
    """How far the row lies above what it is held against."""
    if not statement.bound:
        return difference(values, others)
    assert statement.value is not None
    found = over_seeds(values)
    return Interval(*(each - statement.value for each in (found.mean, found.low, found.high)))


def _side(statement: Statement, low: float, high: float) -> str:
    """The verdict of an interval."""
    if math.isnan(low):
        return OPEN
    if statement.expect in ("lower", "at most"):
        low, high = -high, -low
    if statement.expect == "alike":
        if max(abs(low), abs(high)) <= statement.margin:
            return HELD
        return NOT if low > statement.margin or high < -statement.margin else OPEN
    return HELD if low > 0 else NOT if high < 0 else OPEN


def together(verdicts: Iterable[str]) -> str:
    """One verdict of several rows and data sets: the same of all, or depends."""
    found = set(verdicts) - {MISSING}
    if not found:
        return MISSING
    if len(found) == 1:
        return found.pop()
    return DEPENDS if NOT in found and HELD in found else OPEN
