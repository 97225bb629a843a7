"""How well single latents stand for single known factors: MIG, and DCI by random forests."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

BINS = 20


class DCI(NamedTuple):
    """Disentanglement, completeness and informativeness, each at most 1."""

    disentanglement: float
    completeness: float
    informativeness: float


def mutual_information_gap(codes: np.ndarray, factors: np.ndarray, bins: int = BINS) -> float:
    """The mutual information gap (Chen et al. 2018, arXiv:1802.04942, eq. 6), 0 to 1.

    Each latent is cut into ``bins`` intervals of equal width. The gap of a factor is that between
    its two most informative latents, over the factor's entropy.

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

    Informativeness is the mean accuracy on the fifth of the rows that no forest was fitted to.

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
    share = table / np.where(total > 0, total, 1)[:, None]
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1)), axis=1)
    return float(np.average(1 - entropy / np.log(table.shape[1]), weights=total))
