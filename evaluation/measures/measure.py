"""The figures of an embedding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from evaluation.backends.choose import Backends
from evaluation.backends.voting import Neighbours
from evaluation.measures.protocol import (
    LABELS_PER_CLASS,
    NEIGHBOURS,
    Points,
    Protocol,
    test_labels_of,
)
from evaluation.sampling import folds, interval, rows_of, stratified_rows


class Measure:
    """Measures embeddings by one protocol.

    Parameters
    ----------
    protocol : Protocol
    backends : Backends
    reference : array
        Pixels of a sample of test images, for trustworthiness.
    reference_rows : numpy.ndarray
        The sample's rows among the test images.
    """

    def __init__(
        self, protocol: Protocol, backends: Backends, reference: Any, reference_rows: np.ndarray
    ) -> None:
        self.protocol, self.backends = protocol, backends
        self.reference, self.reference_rows = reference, reference_rows

    def figures(self, points: Points) -> Iterator[dict[str, Any]]:
        """Fields of one `Row` after another."""
        yield from self._neighbourhoods(points)
        if not points.labelled:
            return
        yield from self.knn_figures(points)
        if self.protocol.more:
            yield from self._all_labels(points)
            yield from self._linear_probe(points)
            yield from self._clusters(points)

    def knn_figures(self, points: Points) -> Iterator[dict[str, Any]]:
        """The 2018 article's two tables: the test figure by k, and the cross-validated grid."""
        yield from self._test_figure(points)
        yield from self._grid(points)

    def confusion(self, points: Points, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Confusion matrix and predictions of the test figure's first repeat."""
        found = self._fit_sample(points, 0).predictions([k], "uniform")[0]
        matrix = np.zeros((points.classes, points.classes), np.int64)
        np.add.at(matrix, (points.test_labels, found), 1)
        return matrix, found

    def _neighbourhoods(self, points: Points) -> Iterator[dict[str, Any]]:
        embedded = self.backends.take(points.test, self.reference_rows)
        k = min(10, (len(self.reference_rows) - 1) // 2 - 1)
        if k < 1:
            return
        both: dict[str, tuple[Any, Any]] = {"trustworthiness": (self.reference, embedded)}
        if self.protocol.more:
            both["continuity"] = (embedded, self.reference)
        for metric, (rows, shown) in both.items():
            value, backend, note = self.backends.run("trustworthiness", rows, shown, k)
            sample = f"{len(embedded)} test images"
            yield {
                "metric": metric,
                "split": "test",
                "k": k,
                "value": value,
                "backend": backend,
                "seed": self.protocol.seed,
                "note": "; ".join(filter(None, [sample, note])),
            }

    def _fit(
        self,
        rows: Any,
        labels: np.ndarray,
        queries: Any,
        classes: int,
        record: dict[str, Any] | None = None,
    ) -> Neighbours:
        """Search once, where the backend is; vote on the host."""
        record = {} if record is None else record

        def find(k: int) -> np.ndarray:
            index, record["backend"], record["note"] = self.backends.run("search", rows, queries, k)
            return index

        host, k = self.backends.to_host, NEIGHBOURS[-1]
        return Neighbours(host(rows), labels, host(queries), k=k, classes=classes, find=find)

    def _fit_sample(
        self, points: Points, repeat: int, record: dict[str, Any] | None = None
    ) -> Neighbours:
        """Fit on the labels of the test figure."""
        rows = stratified_rows(
            points.train_labels, test_labels_of(points.train_labels), self.protocol.seed, repeat
        )
        labels = points.train_labels[rows]
        sample = self.backends.take(points.train, rows)
        return self._fit(sample, labels, points.test, points.classes, record)

    def _test_figure(self, points: Points) -> Iterator[dict[str, Any]]:
        record: dict[str, Any] = {}
        by_cell: dict[tuple[str, int], list[float]] = {}
        per_class = test_labels_of(points.train_labels)
        for repeat in _repeats(self.protocol.repeats, per_class, points.train_labels):
            fitted = self._fit_sample(points, repeat, record)
            ks = [k for k in NEIGHBOURS if k <= fitted.k]
            for weights in ("uniform", "distance"):
                for k, predicted in zip(ks, fitted.predictions(ks, weights), strict=True):
                    accuracy = float((predicted == points.test_labels).mean())
                    by_cell.setdefault((weights, k), []).append(accuracy)
        for (weights, k), values in by_cell.items():
            yield {
                "metric": "knn_test_accuracy",
                "split": "test",
                "k": k,
                "weights": weights,
                "labels_per_class": per_class,
                "seed": self.protocol.seed,
                **record,
                **interval(values),
            }

    def _grid(self, points: Points) -> Iterator[dict[str, Any]]:
        record: dict[str, Any] = {}
        rarest = int(np.bincount(points.train_labels).min())
        for per_class in (n for n in LABELS_PER_CLASS if n <= rarest):
            by_cell: dict[tuple[str, int], list[float]] = {}
            for repeat in _repeats(self.protocol.cv_repeats, per_class, points.train_labels):
                rows = stratified_rows(points.train_labels, per_class, self.protocol.seed, repeat)
                sample = self.backends.take(points.train, rows)
                for cell, value in self._cross_validate(
                    sample, points.train_labels[rows], points.classes, record
                ).items():
                    by_cell.setdefault(cell, []).append(value)
            for (weights, k), values in by_cell.items():
                yield {
                    "metric": "knn_cv_accuracy",
                    "split": "train",
                    "labels_per_class": per_class,
                    "k": k,
                    "weights": weights,
                    "folds": 5,
                    "seed": self.protocol.seed,
                    **record,
                    **interval(values),
                }

    def _cross_validate(
        self, rows: Any, labels: np.ndarray, classes: int, record: dict[str, Any]
    ) -> dict[tuple[str, int], float]:
        by_fold: dict[tuple[str, int], list[float]] = {}
        for fit, score in folds(labels):
            fitted = self._fit(
                self.backends.take(rows, fit),
                labels[fit],
                self.backends.take(rows, score),
                classes,
                record,
            )
            ks = [k for k in NEIGHBOURS if k <= fitted.k]
            for weights in self.protocol.cv_weights:
                for k, predicted in zip(ks, fitted.predictions(ks, weights), strict=True):
                    accuracy = float((predicted == labels[score]).mean())
                    by_fold.setdefault((weights, k), []).append(accuracy)
        return {cell: sum(values) / len(values) for cell, values in by_fold.items()}

    def _all_labels(self, points: Points) -> Iterator[dict[str, Any]]:
        from sklearn.metrics import log_loss, roc_auc_score

        record: dict[str, Any] = {}
        fitted = self._fit(points.train, points.train_labels, points.test, points.classes, record)
        ks = [k for k in NEIGHBOURS if k <= fitted.k]
        truth, every = points.test_labels, list(range(points.classes))
        for weights in ("uniform", "distance"):
            for k, predicted in zip(ks, fitted.predictions(ks, weights), strict=True):
                common = {"split": "test", "k": k, "weights": weights, **record}
                accuracy = float((predicted == truth).mean())
                yield {"metric": "knn_all_test_accuracy", "value": accuracy, **common}
                # One vote for each class keeps the log-loss finite (Laplace's rule).
                smoothed = (fitted.probabilities(k, weights) * k + 1) / (k + points.classes)
                loss = float(log_loss(truth, smoothed, labels=every))
                yield {"metric": "knn_log_loss", "value": loss, "unit": "nats", **common}
                if len(np.unique(truth)) == points.classes:
                    auc = _macro_auc(roc_auc_score, truth, smoothed)
                    yield {"metric": "knn_macro_auc", "value": auc, **common}

    def _linear_probe(self, points: Points) -> Iterator[dict[str, Any]]:
        from sklearn.linear_model import LogisticRegression

        (train, test), backend, note = self.backends.run("standardise", points.train, points.test)
        train, test = self.backends.to_host(train), self.backends.to_host(test)
        per_class = test_labels_of(points.train_labels)
        values = []
        for repeat in _repeats(self.protocol.repeats, per_class, points.train_labels):
            rows = stratified_rows(points.train_labels, per_class, self.protocol.seed, repeat)
            probe = LogisticRegression(max_iter=1000)
            probe.fit(train[rows], points.train_labels[rows])
            values.append(float(probe.score(test, points.test_labels)))
        yield {
            "metric": "linear_probe_accuracy",
            "split": "test",
            "labels_per_class": per_class,
            "seed": self.protocol.seed,
            "backend": "cpu",
            "note": "; ".join(filter(None, [f"standardised on {backend}", note])),
            **interval(values),
        }

    def _clusters(self, points: Points) -> Iterator[dict[str, Any]]:
        from sklearn.cluster import KMeans
        from sklearn.metrics import (
            adjusted_rand_score,
            normalized_mutual_info_score,
            silhouette_score,
        )

        rows = rows_of(len(points.test), 5000, self.protocol.seed, "silhouette")
        test = self.backends.to_host(points.test)
        shown, truth = test[rows], points.test_labels[rows]
        common = {"split": "test", "backend": "cpu", "seed": self.protocol.seed}
        if len(np.unique(truth)) > 1:
            value = float(silhouette_score(shown, truth))
            yield {"metric": "silhouette", "value": value, "note": f"{len(rows)} images", **common}
        nmi, ari = [], []
        for repeat in range(self.protocol.repeats):
            found = KMeans(points.classes, n_init=4, random_state=self.protocol.seed + repeat)
            cluster = found.fit_predict(test)
            nmi.append(float(normalized_mutual_info_score(points.test_labels, cluster)))
            ari.append(float(adjusted_rand_score(points.test_labels, cluster)))
        yield {"metric": "kmeans_nmi", **common, **interval(nmi)}
        yield {"metric": "kmeans_ari", **common, **interval(ari)}


def _repeats(wanted: int, per_class: int, labels: np.ndarray) -> range:
    """Samples to repeat a figure over: one where a sample is the whole set, so all are the same."""
    return range(1 if per_class >= np.bincount(labels).max() else wanted)


def _macro_auc(score: Any, truth: np.ndarray, probabilities: np.ndarray) -> float:
    classes = probabilities.shape[1]
    if classes == 2:
        return float(score(truth, probabilities[:, 1]))
    return float(score(truth, probabilities, multi_class="ovr", average="macro"))
