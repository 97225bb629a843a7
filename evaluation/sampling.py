"""Which images a figure is fitted on and scored on; the same for every method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.order import derive_seed


def stratified_rows(labels: np.ndarray, per_class: int, seed: int, repeat: int = 0) -> np.ndarray:
    """Rows of a sample with `per_class` rows of each class, ascending.

    The sample of a smaller number lies within that of a larger one.

    Raises
    ------
    ValueError
        If a class has fewer rows.
    """
    counts = np.bincount(labels)
    if counts[counts > 0].min() < per_class:
        raise UserError(
            f"{per_class} labels a class: the rarest class has {counts[counts > 0].min()} only"
        )
    rng = np.random.Generator(np.random.Philox(key=derive_seed(seed, "labels", repeat)))
    rows = [
        rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(rows))


def rows_of(count: int, wanted: int, seed: int, purpose: str) -> np.ndarray:
    """At most `wanted` of `count` rows, ascending."""
    if count <= wanted:
        return np.arange(count)
    rng = np.random.Generator(np.random.Philox(key=derive_seed(seed, purpose)))
    return np.sort(rng.permutation(count)[:wanted])


def folds(labels: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The 2018 article's five folds: fitted rows, scored rows."""
    from sklearn.model_selection import StratifiedKFold

    return StratifiedKFold(5, shuffle=True, random_state=42).split(np.zeros(len(labels)), labels)


def interval(values: Sequence[float]) -> dict[str, float | int | list[float] | None]:
    """Mean, standard deviation and the bounds of the 95 % t interval of the mean."""
    from scipy.stats import t

    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        return {"value": mean, "repeats": n, "values": list(values)}
    std = float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    return {
        "value": mean,
        "repeats": n,
        "std": std,
        "ci_low": mean - half,
        "ci_high": mean + half,
        "values": list(values),
    }
