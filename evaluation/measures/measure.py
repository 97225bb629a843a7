"""The figures of an embedding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, product
from typing import Any

import numpy as np

from data_pipeline.plugins import installed, load_installed
from evaluation.backends.choose import Backends
from evaluation.backends.voting import WEIGHTS, Neighbours
from evaluation.measures.classes import clusters, linear_probe
from evaluation.measures.protocol import (
    LABELS_PER_CLASS,
    NEIGHBOURS,
    Points,
    Protocol,
    repeats_of,
    test_labels_of,
    with_labels,
)
from evaluation.results.blanks import blank
from evaluation.sampling import folds, interval, rarest, stratified_rows

METRICS = "vae_dist.metrics"  # the entry points of more figures

# Figures that need labels: the first two in every protocol, the first five in ``all_labels``,
# all in ``full``.
BY_LABEL = (
    "knn_test_accuracy",
    "knn_cv_accuracy",
    "knn_all_test_accuracy",
    "knn_log_loss",
    "knn_macro_auc",
    "linear_probe_accuracy",
    "silhouette",
    "kmeans_nmi",
    "kmeans_ari",
)


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
        missing = points.known.missing
        if missing is not None:
            count = len(BY_LABEL) if self.protocol.more else 5 if self.protocol.all_labels else 2
            yield from (blank(metric, missing) for metric in BY_LABEL[:count])
            return
        figures = [self.knn_figures(points)]
        if self.protocol.all_labels:
            figures += [self._all_labels(points)]
        if self.protocol.more:
            more = (self.protocol, self.backends, points)
            figures += [linear_probe(*more), clusters(*more)]
        figures += [self._installed(points)]
        for figure in chain.from_iterable(figures):
            note = "; ".join(filter(None, [figure.get("note"), points.known.note]))
            yield {**figure, "note": note or None}

    def knn_figures(self, points: Points) -> Iterator[dict[str, Any]]:
        """The 2018 article's two tables: the test figure by k, and the cross-validated grid."""
        yield from self._test_figure(points)
        yield from self._grid(points)

    def confusion(self, points: Points, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The test figure's first repeat.

        Returns
        -------
        matrix, predicted : numpy.ndarray
            (classes, classes), of the test images with a known label; and the class of every
            test image by KNN.
        """
        known = points.known
        found = self._fit_sample(points, points.test, 0).predictions([k], "uniform")[0]
        predicted = known.codes[found]
        matrix = np.zeros((points.classes, points.classes), np.int64)
        truth = points.test_labels[known.test_rows]
        np.add.at(matrix, (truth, predicted[known.test_rows]), 1)
        return matrix, predicted

    def _neighbourhoods(self, points: Points) -> Iterator[dict[str, Any]]:
        embedded = self.backends.take(points.test, self.reference_rows)
        k = min(10, (len(self.reference_rows) - 1) // 2 - 1)
        both: dict[str, tuple[Any, Any]] = {"trustworthiness": (self.reference, embedded)}
        if self.protocol.more:
            both["continuity"] = (embedded, self.reference)
        for metric, (rows, shown) in both.items():
            if k < 1:
                yield blank(
                    metric, f"{len(embedded)} test images have no neighbourhoods to compare"
                )
                continue
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
        self, points: Points, queries: Any, repeat: int, record: dict[str, Any] | None = None
    ) -> Neighbours:
        """Fit on the labels of the test figure."""
        known = points.known
        rows = stratified_rows(known.train, test_labels_of(known.train), self.protocol.seed, repeat)
        sample = self.backends.take(points.train, known.train_rows[rows])
        return self._fit(sample, known.train[rows], queries, known.classes, record)

    def _test_figure(self, points: Points) -> Iterator[dict[str, Any]]:
        known, record = points.known, dict[str, Any]()
        _, queries = with_labels(self.backends, points)
        by_cell: dict[tuple[str, int], list[float]] = {}
        per_class = test_labels_of(known.train)
        for repeat in repeats_of(self.protocol.repeats, per_class, known.train):
            fitted = self._fit_sample(points, queries, repeat, record)
            ks = [k for k in NEIGHBOURS if k <= fitted.k]
            for weights in WEIGHTS:
                for k, predicted in zip(ks, fitted.predictions(ks, weights), strict=True):
                    accuracy = float((predicted == known.test).mean())
                    by_cell.setdefault((weights, k), []).append(accuracy)
        common = {"split": "test", "labels_per_class": per_class, "seed": self.protocol.seed}
        for (weights, k), values in by_cell.items():
            figure = {"metric": "knn_test_accuracy", "k": k, "weights": weights}
            spread = interval(values, "knn_test_accuracy", len(known.test))
            yield {**figure, **common, **record, **spread}
        yield from _too_few("knn_test_accuracy", known.classes * per_class, WEIGHTS, **common)

    def _grid(self, points: Points) -> Iterator[dict[str, Any]]:
        known, record = points.known, dict[str, Any]()
        most = rarest(known.train)
        for per_class in LABELS_PER_CLASS:
            common = {
                "split": "train",
                "labels_per_class": per_class,
                "folds": 5,
                "seed": self.protocol.seed,
            }
            if per_class > most:
                reason = f"the rarest class has {most} labelled training images"
                yield blank("knn_cv_accuracy", reason, **common)
                continue
            by_cell: dict[tuple[str, int], list[float]] = {}
            for repeat in repeats_of(self.protocol.cv_repeats, per_class, known.train):
                rows = stratified_rows(known.train, per_class, self.protocol.seed, repeat)
                sample = self.backends.take(points.train, known.train_rows[rows])
                for cell, value in self._cross_validate(
                    sample, known.train[rows], known.classes, record
                ).items():
                    by_cell.setdefault(cell, []).append(value)
            for (weights, k), values in by_cell.items():
                figure = {"metric": "knn_cv_accuracy", "k": k, "weights": weights}
                yield {**figure, **common, **record, **interval(values, "knn_cv_accuracy")}

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

        known, record = points.known, dict[str, Any]()
        truth, classes = known.test, known.classes
        train, test = with_labels(self.backends, points)
        fitted = self._fit(train, known.train, test, classes, record)
        ks = [k for k in NEIGHBOURS if k <= fitted.k]
        absent = classes - len(np.unique(truth))
        for weights in WEIGHTS:
            for k, predicted in zip(ks, fitted.predictions(ks, weights), strict=True):
                common = {"split": "test", "k": k, "weights": weights, **record}
                accuracy = float((predicted == truth).mean())
                spread = interval([accuracy], scored=len(truth))
                yield {"metric": "knn_all_test_accuracy", **common, **spread}
                # One vote for each class keeps the log-loss finite (Laplace's rule).
                smoothed = (fitted.probabilities(k, weights) * k + 1) / (k + classes)
                loss = float(log_loss(truth, smoothed, labels=list(range(classes))))
                yield {"metric": "knn_log_loss", "value": loss, "unit": "nats", **common}
                if not absent:
                    auc = _macro_auc(roc_auc_score, truth, smoothed)
                    yield {"metric": "knn_macro_auc", "value": auc, **common}
        if absent:
            yield blank("knn_macro_auc", f"{absent} classes have no test images", split="test")
        yield from _too_few("knn_all_test_accuracy", len(known.train), WEIGHTS, split="test")

    def _installed(self, points: Points) -> Iterator[dict[str, Any]]:
        """Figures of installed packages: functions of the embeddings with a known label."""
        for metric in sorted(installed(METRICS)):
            known = points.known
            train, test = (
                self.backends.to_host(part) for part in with_labels(self.backends, points)
            )
            value = load_installed(METRICS, metric)(train, known.train, test, known.test)
            yield {"metric": metric, "split": "test", "value": float(value), "backend": "cpu"}


def _too_few(
    metric: str, labels: int, weights: Sequence[str], **settings: Any
) -> Iterator[dict[str, Any]]:
    """The cells of numbers of neighbours that there are not."""
    for one, k in product(weights, (k for k in NEIGHBOURS if k > labels)):
        reason = f"{labels} labelled training images are fewer than {k} neighbours"
        yield blank(metric, reason, k=k, weights=one, **settings)


def _macro_auc(score: Any, truth: np.ndarray, probabilities: np.ndarray) -> float:
    classes = probabilities.shape[1]
    if classes == 2:
        return float(score(truth, probabilities[:, 1]))
    return float(score(truth, probabilities, multi_class="ovr", average="macro"))
