"""Which pictures an evaluation folder gives, each with its caption."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from evaluation.figures import charts, of_runs, scatter
from evaluation.figures.style import Picture
from evaluation.results.folder import Folder
from evaluation.results.records import TEST_FIGURE, Embedding, Row

MOST_METHODS = 12  # panels of accuracy against k
MOST_LINES = 40  # lines of the chart of test accuracies
MOST_CLASSES = 20  # confusion matrices above this many classes cannot be read


def pictures(folder: Folder) -> Iterator[Picture]:
    """Yield what can be drawn from the folder, in the order of the report."""
    for make in (
        _compare,
        _test_accuracy,
        _accuracy_against_k,
        of_runs.reconstructions,
        of_runs.samples,
        of_runs.traversals,
        of_runs.interpolations,
        of_runs.latents_used,
        _confusions,
        of_runs.training,
    ):
        yield from make(folder)


def made_by(item: Embedding) -> str:
    """One phrase on how an embedding was made: parameters, backend, seconds."""
    parts = [f"{key} {_short(value)}" for key, value in item.parameters.items()]
    parts.append(f"backend {item.backend}")
    if item.seconds is not None:
        parts.append(f"{item.seconds:.1f} s")
    return f"{item.title}: {', '.join(parts)}"


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _compare(folder: Folder) -> Iterator[Picture]:
    chosen = folder.compared()
    arrays, labels, which = folder.artifacts, None, ""
    maps = folder.named("map_train")
    if all(name in maps for name in chosen) and "train_labels" in folder.labels:
        labels = folder.labels["train_labels"][arrays["map_train_position"]]
        which = f"{len(labels):,} of the {folder.results.counts['train']:,} training images"
    elif "sample_labels" in arrays:
        maps, labels = folder.named("map"), arrays["sample_labels"]
        which = f"{len(labels):,} of the {folder.results.counts['test']:,} test images"
    if not chosen or labels is None:
        return
    items = [folder.embedding(name) for name in chosen]
    panels = [_panel(folder, item, maps[item.id]) for item in items]
    codes, classes = labels, folder.results.classes
    caption = f"{which}, coloured by class. " + "; ".join(made_by(item) for item in items) + "."
    yield Picture(
        "compare",
        "Two dimensions, side by side",
        caption,
        lambda theme: scatter.scatter_panels(panels, codes, classes, theme=theme),
    )


def _panel(folder: Folder, item: Embedding, points: np.ndarray) -> scatter.Panel:
    if item.method == "umap" and item.dim == 2:
        return scatter.Panel(item.title, points, "UMAP 1 (no unit)", "UMAP 2 (no unit)")
    if item.method in ("pca", "raw"):
        names = [f"PC {i + 1} of the pixels" for i in range(2)]
        return scatter.Panel(item.title, points, *names)
    if item.map == "pca":
        title = f"{item.title}, projected by PCA"
        return scatter.Panel(title, points, "PC 1 of the latents", "PC 2 of the latents")
    return scatter.Panel(item.title, points, "latent 1", "latent 2")


def _test_accuracy(folder: Folder) -> Iterator[Picture]:
    lines = [line for line in folder.board if line["knn_test_accuracy"] is not None]
    if len(lines) < 2:
        return
    scores = [
        charts.Score(
            f"{line['title']}, k={line['k']}",
            line["knn_test_accuracy"],
            _or(line["ci_low"], line["knn_test_accuracy"]),
            _or(line["ci_high"], line["knn_test_accuracy"]),
            line["method"],
        )
        for line in lines[:MOST_LINES]
    ]
    repeats = [row.repeats for row in folder.test_rows()]
    labels = folder.test_labels
    interval = (
        f"Dots are means over {max(repeats)} draws of the labelled images, bars their 95 % t interval."
        if max(repeats) > 1
        else "One draw of the labelled images, hence no intervals."
    )
    caption = (
        f"KNN with {TEST_FIGURE['weights']} weights, fitted on {labels} labelled images a class, scored "
        f"on the {folder.results.counts['test']:,} test images, at the k that is best for "
        f"each. {interval}"
    )
    x_label = f"test accuracy (share), {labels} labels a class"
    yield Picture(
        "test_accuracy",
        "Test accuracy of KNN",
        caption,
        lambda theme: charts.leaderboard(scores, x_label=x_label, theme=theme),
    )


def _accuracy_against_k(folder: Folder) -> Iterator[Picture]:
    rows = [row for row in folder.rows("knn_cv_accuracy") if row.k and row.labels_per_class]
    kinds = {row.weights for row in rows}
    weights = "distance" if "distance" in kinds else next(iter(kinds), None)
    rows = [row for row in rows if row.weights == weights]
    measured = {row.embedding for row in rows}
    methods = [
        (item.title, curves([row for row in rows if row.embedding == item.id]))
        for item in _best_of_each(folder, MOST_METHODS)
        if item.id in measured
    ]
    if not methods:
        return
    repeats, folds = max(row.repeats for row in rows), rows[0].folds
    caption = (
        f"{folds}-fold stratified cross-validation on a stratified sample of the training images, "
        f"KNN with {weights} weights, seed {rows[0].seed}."
    )
    if repeats > 1:
        caption += f" Means over {repeats} samples, bands their 95 % t interval."
    left_out = len(measured) - len(methods)
    if left_out:
        caption += f" {left_out} lower embeddings are not shown."
    yield Picture(
        "accuracy_against_k",
        "Accuracy against the number of neighbours",
        caption,
        lambda theme: charts.accuracy_against_k(
            methods, theme=theme, y_label="accuracy (share), cross-validated"
        ),
    )


def _best_of_each(folder: Folder, most: int) -> list[Embedding]:
    """At most this number of embeddings: all, or the best of each method and dimension and then more."""
    if len(folder.results.embeddings) <= most:
        return folder.results.embeddings
    ranked = [folder.embedding(line["embedding"]) for line in folder.board]
    best: dict[tuple[str, int], Embedding] = {}
    for item in ranked:
        best.setdefault((item.method, item.dim), item)
    kept = [item.id for item in best.values()]
    kept = [*kept, *(item.id for item in ranked if item.id not in kept)][:most]
    return [item for item in ranked if item.id in kept]


def curves(rows: list[Row]) -> list[charts.Curve]:
    """Accuracy against k, a curve for each number of labels a class."""
    found = []
    for count in sorted({row.labels_per_class or 0 for row in rows}):
        own = sorted((row for row in rows if row.labels_per_class == count), key=_k)
        value = np.array([_or(row.value, np.nan) for row in own])
        low = np.array([_or(row.ci_low, _or(row.value, np.nan)) for row in own])
        high = np.array([_or(row.ci_high, _or(row.value, np.nan)) for row in own])
        found.append(charts.Curve(count, np.array([_k(row) for row in own]), value, low, high))
    return found


def _confusions(folder: Folder) -> Iterator[Picture]:
    found = folder.named("confusion")
    classes = folder.results.classes
    items = [folder.embedding(name) for name in found]
    chosen = _headline(folder, items)
    if not chosen or len(classes) > MOST_CLASSES:
        return
    matrices = [(item.title, found[item.id]) for item in chosen]
    total = int(matrices[0][1].sum())
    yield Picture(
        "confusion",
        "What is taken for what",
        f"Predictions of the KNN test figure ({folder.test_labels} labels a class) on "
        f"{total:,} test images, in percent of the true class; below 0.5 % left empty.",
        lambda theme: charts.confusion_matrices(matrices, classes, theme=theme),
    )


def _headline(folder: Folder, items: list[Embedding]) -> list[Embedding]:
    """PCA, UMAP and the best VAE in the largest dimension that each has."""
    chosen = []
    for method in ("pca", "umap", "vae"):
        own = [item for item in items if item.method == method]
        if method == "vae":
            ranked = [line["embedding"] for line in folder.board]
            own.sort(key=lambda item: ranked.index(item.id), reverse=True)
        else:
            own.sort(key=lambda item: item.dim)
        chosen += own[-1:]
    return chosen or items[:3]


def _k(row: Row) -> int:
    return row.k or 0


def _or(value: Any, other: Any) -> Any:
    return other if value is None else value
