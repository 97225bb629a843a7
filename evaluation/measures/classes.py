"""How well an embedding parts the classes: a linear probe, silhouette and k-means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from evaluation.backends.choose import Backends
from evaluation.measures.protocol import Points, Protocol, repeats_of, test_labels_of, with_labels
from evaluation.results.blanks import blank
from evaluation.sampling import interval, rows_of, stratified_rows


def linear_probe(
    protocol: Protocol, backends: Backends, points: Points
) -> Iterator[dict[str, Any]]:
    """Accuracy of logistic regression on the labels of the test figure."""
    from sklearn.linear_model import LogisticRegression

    known = points.known
    (train, test), backend, note = backends.run("standardise", *with_labels(backends, points))
    train, test = backends.to_host(train), backends.to_host(test)
    per_class = test_labels_of(known.train)
    values = []
    for repeat in repeats_of(protocol.repeats, per_class, known.train):
        rows = stratified_rows(known.train, per_class, protocol.seed, repeat)
        probe = LogisticRegression(max_iter=1000)
        probe.fit(train[rows], known.train[rows])
        values.append(float(probe.score(test, known.test)))
    yield {
        "metric": "linear_probe_accuracy",
        "split": "test",
        "labels_per_class": per_class,
        "seed": protocol.seed,
        "backend": "cpu",
        "note": "; ".join(filter(None, [f"standardised on {backend}", note])),
        **interval(values, "linear_probe_accuracy", len(known.test)),
    }


def clusters(protocol: Protocol, backends: Backends, points: Points) -> Iterator[dict[str, Any]]:
    """Silhouette of the classes, and how far the clusters of k-means agree with them."""
    from sklearn.cluster import KMeans
    from sklearn.metrics import (
        adjusted_rand_score,
        normalized_mutual_info_score,
        silhouette_score,
    )

    known = points.known
    test = backends.to_host(with_labels(backends, points)[1])
    rows = rows_of(len(test), 5000, protocol.seed, "silhouette")
    shown, truth = test[rows], known.test[rows]
    common = {"split": "test", "backend": "cpu", "seed": protocol.seed}
    if 1 < len(np.unique(truth)) < len(truth):
        value = float(silhouette_score(shown, truth))
        yield {"metric": "silhouette", "value": value, "note": f"{len(rows)} images", **common}
    else:
        reason = f"{len(truth)} test images of {len(np.unique(truth))} classes"
        yield blank("silhouette", reason, **common)
    scores: dict[str, list[float]] = {"kmeans_nmi": [], "kmeans_ari": []}
    if len(test) < known.classes:
        reason = f"{len(test)} test images make no {known.classes} clusters"
        yield from (blank(metric, reason, **common) for metric in scores)
        return
    for repeat in range(protocol.repeats):
        found = KMeans(known.classes, n_init=4, random_state=protocol.seed + repeat)
        cluster = found.fit_predict(test)
        scores["kmeans_nmi"].append(float(normalized_mutual_info_score(known.test, cluster)))
        scores["kmeans_ari"].append(float(adjusted_rand_score(known.test, cluster)))
    for metric, values in scores.items():
        yield {"metric": metric, **common, **interval(values, metric)}
