"""How well single latents stand for single known factors: MIG, and DCI by random forests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from evaluation.results.blanks import DISENTANGLEMENT, blank
from evaluation.sampling import rows_of

BINS = 20
MOST_IMAGES = 10_000  # test images that are measured, as many as the literature takes


def disentanglement(
    codes: np.ndarray, factors: np.ndarray, names: Sequence[str], seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of MIG and DCI of an embedding of the test images.

    Parameters
    ----------
    codes : array of float, shape (n, d)
    factors : array of int, shape (n, k)
    names : sequence of str
        Of the factors. Those that are constant are not used, which is noted.
    seed : int
        Of the images that are measured and of the forests.
    """
    rows = rows_of(len(codes), MOST_IMAGES, seed, "factors")
    codes, factors = codes[rows], factors[rows]
    varies = np.flatnonzero((factors != factors[:1]).any(0))
    common = {"split": "test", "seed": seed, "backend": "cpu"}
    reason = None
    if codes.shape[1] < 2:
        reason = "one dimension alone"
    elif len(codes) < 10:
        reason = f"{len(codes)} test images are too few"
    elif len(varies) < 2:
        reason = f"{len(varies)} of the factors vary over the test images"
    if reason is not None:
        yield from (blank(metric, reason, **common) for metric in DISENTANGLEMENT)
        return
    used = ", ".join(names[column] for column in varies.tolist())
    note = f"{len(codes)} test images; factors {used}"
    factors = factors[:, varies]
    values = (mutual_information_gap(codes, factors), *dci(codes, factors, seed))
    for metric, value in zip(DISENTANGLEMENT, values, strict=True):
        yield {"metric": metric, "value": value, "note": note, **common}


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each 0 to 1."""

    disentanglement: float
    completeness: float
    informativeness: float


def mutual_information_gap(codes: np.ndarray, factors: np.ndarray, bins: int = BINS) -> float:
    """The mutual information gap (Chen et al. 2018, arXiv:1802.04942, eq. 6), 0 to 1.

    Each latent is cut into ``bins`` intervals of equal width. The gap of a factor is that between
    its two most informative latents, over the factor's entropy. Constant codes have gap 0.

    Parameters
    ----------
    codes : array of float, shape (n, d), d at least 2
    factors : array, shape (n, k)
        Discrete values; every factor takes at least two.
    bins : int
        Intervals a latent.
    """
    assert codes.shape[1] > 1, "a gap needs two latents"
    cut = [np.digitize(c, np.histogram_bin_edges(c, bins)[1:-1]) for c in codes.T]
    gaps = []
    for factor in factors.T:
        values, rows = np.unique(factor, return_inverse=True)
        assert len(values) > 1, "a constant factor has no entropy"
        share = np.bincount(rows) / len(rows)
        entropy = -np.sum(share * np.log(share))
        first, second = sorted((_mutual(c, rows, bins) for c in cut), reverse=True)[:2]
        gaps.append((first - second) / entropy)
    return float(np.mean(gaps))


def dci(codes: np.ndarray, factors: np.ndarray, seed: int = 0, trees: int = 20) -> DCI:
    """DCI (Eastwood & Williams 2018) from the importances of one random forest a factor.

    Informativeness is the mean accuracy on the fifth of the rows that no forest was fitted to, as
    in disentanglement_lib; the article's is an error. Codes that tell nothing of any factor, as
    constant ones, have disentanglement and completeness 0.

    Parameters
    ----------
    codes : array of float, shape (n, d), d at least 2
    factors : array, shape (n, k), k at least 2
        Discrete values.
    seed : int
        Of the held-out rows and of the forests.
    trees : int
        Trees a forest.
    """
    from sklearn.ensemble import RandomForestClassifier

    assert codes.shape[1] > 1, "one latent has no completeness"
    assert factors.shape[1] > 1, "one factor has no disentanglement"
    order = np.random.default_rng(seed).permutation(len(codes))
    held, fitted = np.split(order, [len(order) // 5])
    importances, accuracies = [], []
    for factor in factors.T:
        classes = np.unique(factor, return_inverse=True)[1]
        # Every latent at every split: a random subset without the right one splits on chance.
        forest = RandomForestClassifier(trees, max_features=None, random_state=seed)
        forest.fit(codes[fitted], classes[fitted])
        importances.append(forest.feature_importances_)
        accuracies.append(forest.score(codes[held], classes[held]))
    table = np.stack(importances, axis=1)
    return DCI(_focus(table), _focus(table.T), float(np.mean(accuracies)))


def _mutual(one: np.ndarray, other: np.ndarray, bins: int) -> float:
    """Mutual information of two integer arrays, in nats."""
    joint = np.zeros((bins, other.max() + 1))
    np.add.at(joint, (one, other), 1 / len(one))
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    seen = joint > 0
    return float(np.sum(joint[seen] * np.log(joint[seen] / apart[seen])))


def _focus(table: np.ndarray) -> float:
    """One minus each row's entropy (base: its length), averaged with the rows' sums as weights."""
    total = table.sum(1)
    if not total.any():
        return 0.0
    share = table / np.where(total > 0, total, 1)[:, None]
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=1)
    return float(np.average(1 - entropy / np.log(table.shape[1]), weights=total))
