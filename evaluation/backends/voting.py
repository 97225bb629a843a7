"""K nearest neighbours by vote: one search serves every k and both weightings.

The accuracies equal those of scikit-learn's ``KNeighborsClassifier`` to the last digit. Where
two neighbours at the boundary of k, or two classes' votes, are so near that another order of
summation could turn the result, that query is asked of scikit-learn itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

WEIGHTS = ("uniform", "distance")
NEAR = 1e-7  # relative: nearer than that and the order may depend on the arithmetic
TREE_UP_TO = 15  # dimensions, as in scikit-learn; beyond, a tree visits nearly every point


def search_cpu(fit: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Exact: by scipy's k-d tree in few dimensions, else all pairs by scikit-learn."""
    if fit.shape[1] <= TREE_UP_TO:
        from scipy.spatial import KDTree

        return KDTree(fit, leafsize=24).query(queries, k=np.arange(1, k + 1), workers=-1)[1]
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=k, algorithm="brute", n_jobs=-1).fit(fit)
    return index.kneighbors(queries, return_distance=False)


class Neighbours:
    """The nearest neighbours of some queries, ready to vote.

    Parameters
    ----------
    fit : numpy.ndarray
        (n, d), what the classifier is fitted on.
    labels : numpy.ndarray
        (n,), int64, from 0 to ``classes - 1``.
    queries : numpy.ndarray
        (q, d).
    k : int
        The largest number of neighbours that will be asked for.
    classes : int
    find : callable, optional
        From a number k to the indices (q, k) of the nearest rows of `fit`, nearest first; on
        the CPU by default.
    """

    def __init__(
        self,
        fit: np.ndarray,
        labels: np.ndarray,
        queries: np.ndarray,
        *,
        k: int,
        classes: int,
        find: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        self.fit = np.asarray(fit, np.float64)
        self.queries = np.asarray(queries, np.float64)
        self.labels, self.classes = labels, classes
        self.k = min(k, len(fit))
        # Some more than k: a tie at the boundary shows, and an order that the search's
        # arithmetic turned round is put right here.
        wanted = min(self.k + 4, len(fit))
        index = search_cpu(fit, queries, wanted) if find is None else np.asarray(find(wanted))
        distance = _distances(self.fit, self.queries, index)
        order = np.argsort(distance, axis=1, kind="stable")
        self.distance = np.take_along_axis(distance, order, 1)
        self.neighbour_labels = labels[np.take_along_axis(index, order, 1)]

    def votes(self, ks: Sequence[int], weights: str) -> np.ndarray:
        """Votes (len(ks), q, classes) of the k nearest, for each k."""
        top = self.neighbour_labels[:, : self.k]
        given = np.ones_like(self.distance[:, : self.k])
        if weights == "distance":
            with np.errstate(divide="ignore"):
                given = 1 / self.distance[:, : self.k]
            same = np.isinf(given)  # as in scikit-learn: equal points outvote all others
            given = np.where(same.any(axis=1, keepdims=True), same.astype(np.float64), given)
        cell = top + self.classes * np.arange(len(top))[:, None]
        found = np.empty((len(ks), len(top), self.classes))
        for place, k in enumerate(ks):
            votes = np.bincount(cell[:, :k].ravel(), given[:, :k].ravel(), len(top) * self.classes)
            found[place] = votes.reshape(len(top), self.classes)
        return found

    def probabilities(self, k: int, weights: str = "uniform") -> np.ndarray:
        """Votes as class probabilities (q, classes)."""
        votes = self.votes([k], weights)[0]
        return votes / votes.sum(1, keepdims=True)

    def predictions(self, ks: Sequence[int], weights: str) -> np.ndarray:
        """Predicted classes (len(ks), q)."""
        votes = self.votes(ks, weights)
        predicted = votes.argmax(2)
        for place, k in enumerate(ks):
            unclear = self._unclear(k, votes[place], weights)
            if len(unclear):
                predicted[place, unclear] = self._ask_sklearn(k, weights, unclear)
        return predicted

    def _unclear(self, k: int, votes: np.ndarray, weights: str) -> np.ndarray:
        unclear = np.zeros(len(votes), bool)
        if k < self.distance.shape[1]:
            inside, outside = self.distance[:, k - 1], self.distance[:, k]
            unclear |= outside - inside <= NEAR * outside
        if weights == "distance" and k > 1:
            second, first = np.partition(votes, self.classes - 2, axis=1)[:, -2:].T
            unclear |= first - second <= NEAR * first
            unclear |= (self.distance[:, 0] < 1e-6 * self.distance[:, k - 1]) & (
                self.distance[:, 0] > 0
            )
        return np.flatnonzero(unclear)

    def _ask_sklearn(self, k: int, weights: str, rows: np.ndarray) -> np.ndarray:
        from sklearn.neighbors import KNeighborsClassifier

        knn = KNeighborsClassifier(n_neighbors=k, weights=weights).fit(self.fit, self.labels)
        return knn.predict(self.queries[rows])


def _distances(fit: np.ndarray, queries: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Euclidean distances of given pairs, by differences in float64."""
    found = np.empty(index.shape)
    step = max(1, 2**22 // (index.shape[1] * fit.shape[1]))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        difference = fit[index[part]] - queries[part, None]
        found[part] = np.sqrt(np.einsum("qkd,qkd->qk", difference, difference))
    return found
