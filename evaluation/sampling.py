"""Which images a figure is fitted on and scored on; the same for every method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.order import derive_seed

# What a figure can be at the least and at the most, where that is bounded.
RANGES = {
    **dict.fromkeys(
        (
            "knn_test_accuracy",
            "knn_cv_accuracy",
            "knn_all_test_accuracy",
            "knn_macro_auc",
            "linear_probe_accuracy",
            "trustworthiness",
            "continuity",
            "kmeans_nmi",
            "explained_variance",
        ),
        (0.0, 1.0),
    ),
    **dict.fromkeys(("silhouette", "ssim", "ssim11"), (-1.0, 1.0)),
    **dict.fromkeys(
        (
            "knn_log_loss",
            "kl",
            "kl_by_latent",
            "mse",
            "gap",
            "active_units",
            "aggregate_distance",
            "frechet_samples",
            "frechet_recon",
        ),
        (0.0, math.inf),
    ),
    "kmeans_ari": (-0.5, 1.0),
}


def stratified_rows(labels: np.ndarray, per_class: int, seed: int, repeat: int = 0) -> np.ndarray:
    """Rows of a sample with `per_class` rows of each class, ascending.

    The sample of a smaller number lies within that of a larger one.

    Raises
    ------
    ValueError
        If a class has fewer rows.
    """
    if rarest(labels) < per_class:
        raise UserError(f"{per_class} labels a class: the rarest class has {rarest(labels)} only")
    rng = np.random.Generator(np.random.Philox(key=derive_seed(seed, "labels", repeat)))
    rows = [
        rng.permutation(np.flatnonzero(labels == label))[:per_class] for label in np.unique(labels)
    ]
    return np.sort(np.concatenate(rows))


def rarest(labels: np.ndarray) -> int:
    """Images of the rarest class that has any."""
    return int(np.unique(labels, return_counts=True)[1].min())


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


def wilson(share: float, count: int) -> tuple[float, float]:
    """Bounds of the 95 % Wilson interval of a share that was counted on `count` images."""
    z = 1.959964
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2) * z / (1 + z * z / count)
    return max(middle - half, 0.0), min(middle + half, 1.0)


def interval(
    values: Sequence[float], metric: str | None = None, scored: int | None = None
) -> dict[str, float | int | list[float] | None]:
    """Mean, standard deviation and the bounds of the 95 % t interval of the mean.

    Parameters
    ----------
    values : sequence of float
    scored : int, optional
        Images that each value is a share of. Where there is one value, its interval is Wilson's
        over these images.
    metric : str, optional
        Name of the figure. The interval is cut at the bounds of what the figure can be
        (`RANGES`): the true mean lies within them, so that the part that is kept covers it as
        often as the whole.
    """
    from scipy.stats import t

    n = len(values)
    mean = float(np.mean(values))
    if n < 2:
        one: dict[str, float | int | list[float] | None] = {
            "value": mean, "repeats": n, "values": list(values),
        }  # fmt: skip
        if scored:
            one["ci_low"], one["ci_high"] = wilson(mean, scored)
        return one
    std = float(np.std(values, ddof=1))
    half = float(t.ppf(0.975, n - 1)) * std / math.sqrt(n)
    low, high = RANGES.get(metric or "", (-math.inf, math.inf))
    return {
        "value": mean,
        "repeats": n,
        "std": std,
        "ci_low": max(mean - half, low),
        "ci_high": min(mean + half, high),
        "values": list(values),
    }
