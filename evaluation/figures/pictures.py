"""Which pictures an evaluation folder gives, each with its caption."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.figures import charts, grids, scatter
from evaluation.figures.style import Theme
from evaluation.folder import Folder
from evaluation.results import TEST_FIGURE, Embedding, Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_RUNS = 4  # runs with pictures of their own; the best ones where there are more
MOST_METHODS = 12  # panels of accuracy against k
MOST_LINES = 40  # lines of the chart of test accuracies
MOST_CLASSES = 20  # confusion matrices above this many classes cannot be read

_QUANTITIES = (
    ("loss", "loss (nats an image)"),
    ("recon", "reconstruction (nats an image)"),
    ("kl", "KL (nats an image)"),
    ("ssim", "SSIM"),
)


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn in any theme."""

    name: str
    title: str
    caption: str
    draw: Callable[[Theme], Figure]


def pictures(folder: Folder) -> Iterator[Picture]:
    """Yield what can be drawn from the folder, in the order of the report."""
    for make in (
        _compare,
        _test_accuracy,
        _accuracy_against_k,
        _reconstructions,
        _samples,
        _traversals,
        _interpolations,
        _confusions,
        _training,
    ):
        yield from make(folder)


def made_by(item: Embedding) -> str:
    """One phrase on how an embedding was made: parameters, backend, seconds."""
    parts = [f"{key} {value}" for key, value in item.parameters.items() if value is not None]
    parts.append(f"backend {item.backend}")
    if item.seconds is not None:
        parts.append(f"{item.seconds:.1f} s")
    return f"{item.title}: {', '.join(parts)}"


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
    repeats = {row.repeats for row in folder.test_rows()}
    labels = TEST_FIGURE["labels_per_class"]
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
    methods = []
    ranked = [folder.embedding(line["embedding"]) for line in folder.board]
    items = folder.results.embeddings if len(ranked) <= MOST_METHODS else ranked
    for item in items:
        curves = _curves([row for row in rows if row.embedding == item.id])
        if curves:
            methods.append((item.title, curves))
    methods = methods[:MOST_METHODS]
    if not methods:
        return
    folds = next((row.folds for row in rows if row.folds), None)
    caption = (
        f"{folds}-fold stratified cross-validation on a stratified sample of the training images, "
        f"KNN with {weights} weights, seed {rows[0].seed}."
    )
    yield Picture(
        "accuracy_against_k",
        "Accuracy against the number of neighbours",
        caption,
        lambda theme: charts.accuracy_against_k(
            methods, theme=theme, y_label="accuracy (share), cross-validated"
        ),
    )


def _curves(rows: list[Row]) -> list[charts.Curve]:
    curves = []
    for count in sorted({row.labels_per_class or 0 for row in rows}):
        own = sorted((row for row in rows if row.labels_per_class == count), key=_k)
        value = np.array([_or(row.value, np.nan) for row in own])
        low = np.array([_or(row.ci_low, _or(row.value, np.nan)) for row in own])
        high = np.array([_or(row.ci_high, _or(row.value, np.nan)) for row in own])
        curves.append(charts.Curve(count, np.array([_k(row) for row in own]), value, low, high))
    return curves


def _reconstructions(folder: Folder) -> Iterator[Picture]:
    originals = folder.artifacts.get("originals")
    found = folder.named("reconstruction")
    runs = [name for name in _runs(folder) if name in found]
    linear = [name for name in found if name.startswith("pca-") and name not in runs]
    if originals is None or not (runs or linear):
        return
    rows = [(name, found[name]) for name in runs]
    rows += [(f"PCA, {name[4:]} components", found[name]) for name in linear]
    if len(runs) == 1:
        rows[0] = (f"VAE, {_latents(folder, runs[0])} latents", found[runs[0]])
    caption = (
        "Test images and below them what is left of each after encoding and decoding; the VAE "
        f"from the mean of its latents.{_fewer(folder, runs)}"
    )
    yield Picture(
        "reconstructions",
        "Reconstructions under their originals",
        caption,
        lambda theme: grids.reconstructions(originals, rows, theme=theme),
    )


def _samples(folder: Folder) -> Iterator[Picture]:
    found = folder.named("samples")
    for name in _runs(folder):
        if name in found:
            yield _sample_picture(folder, name, found[name])


def _sample_picture(folder: Folder, name: str, images: np.ndarray) -> Picture:
    caption = f"{len(images)} decoded draws from the prior of {name}, not chosen."
    return Picture(
        _file_name("samples", folder, name),
        f"Samples of {name}",
        caption,
        lambda theme: grids.samples(images, theme=theme, columns=16),
    )


def _traversals(folder: Folder) -> Iterator[Picture]:
    found, latents = folder.named("traversal"), folder.named("traversal_latent")
    for name in _runs(folder):
        if name in found:
            codes = latents.get(name, np.arange(len(found[name])))
            yield _traversal_picture(folder, name, found[name], codes)


def _traversal_picture(
    folder: Folder, name: str, images: np.ndarray, latents: np.ndarray
) -> Picture:
    kl = {row.index: row.value for row in folder.rows("kl", run=name) if row.index is not None}
    names = [
        f"latent {i}" + (f"  {kl[i]:.2f} nats" if kl.get(i) is not None else "")
        for i in (int(latent) for latent in latents)
    ]
    steps = np.linspace(-3, 3, images.shape[1])
    caption = (
        f"Each row moves one latent of {name} while the others stay, the most active latent on top."
    )
    return Picture(
        _file_name("traversals", folder, name),
        f"Traversals of {name}",
        caption,
        lambda theme: grids.traversals(images, steps, names, theme=theme),
    )


def _interpolations(folder: Folder) -> Iterator[Picture]:
    found = folder.named("interpolation")
    for name in _runs(folder):
        if name in found:
            yield _interpolation_picture(folder, name, found[name])


def _interpolation_picture(folder: Folder, name: str, images: np.ndarray) -> Picture:
    return Picture(
        _file_name("interpolations", folder, name),
        f"Interpolations of {name}",
        f"Straight lines between the latents of two test images, one a row, decoded by {name}.",
        lambda theme: grids.interpolations(images, theme=theme),
    )


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
        f"Predictions of the KNN test figure ({TEST_FIGURE['labels_per_class']} labels a class) on "
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


def _training(folder: Folder) -> Iterator[Picture]:
    series = [
        one
        for name in _runs(folder)
        for split in ("train", "val")
        for one in _series(name, split, folder.curves.get(name, []))
    ]
    quantities = [
        (key, label) for key, label in _QUANTITIES if any(key in s.values for s in series)
    ]
    if not quantities:
        return
    runs = list(dict.fromkeys(one.run for one in series))
    yield Picture(
        "training",
        "Training",
        "Records of metrics.jsonl. The axes leave out the steep start." + _fewer(folder, runs),
        lambda theme: charts.training_curves(series, quantities, theme=theme),
    )


def _series(run: str, split: str, records: list[dict[str, Any]]) -> list[charts.Series]:
    own = [record for record in records if record.get("split") == split]
    own = [record for record in own if isinstance(record.get("epoch"), int | float)]
    if not own:
        return []
    values = {}
    for key, _ in _QUANTITIES:
        if any(record.get(key) is not None for record in own):
            values[key] = np.array([_or(record.get(key), np.nan) for record in own], dtype=float)
    return [charts.Series(run, split, np.array([record["epoch"] for record in own]), values)]


def _runs(folder: Folder) -> list[str]:
    """Names of the runs that get pictures of their own, the best first."""
    ranked = [line["run"] for line in folder.board if line["run"] and line["method"] == "vae"]
    ranked += [run.name for run in folder.results.runs]
    return list(dict.fromkeys(ranked))[:MOST_RUNS]


def _fewer(folder: Folder, shown: list[str]) -> str:
    count = len(folder.results.runs)
    return f" The best {len(shown)} of {count} runs." if count > len(shown) > 0 else ""


def _file_name(kind: str, folder: Folder, run: str) -> str:
    return kind if len(folder.results.runs) == 1 else f"{kind}-{run}"


def _latents(folder: Folder, run: str) -> int:
    return next(info.latent_size for info in folder.results.runs if info.name == run)


def _k(row: Row) -> int:
    return row.k or 0


def _or(value: Any, other: Any) -> Any:
    return other if value is None else value
