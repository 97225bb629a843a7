"""How much faster the comparison is than the straightforward way, and whether it says the same.

The straightforward way: PCA and UMAP fitted anew for each dimension, by the libraries' own
calls, and a ``KNeighborsClassifier`` fitted anew for each cell of the tables. Each way runs in
a process of its own and pays for its imports and for what umap-learn and pynndescent compile,
as every evaluation does.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from data_pipeline.checks import AtLeast, check_fields
from data_pipeline.errors import UserError
from data_pipeline.folder import open_data
from data_pipeline.order import World
from evaluation.backends.choose import Backends
from evaluation.backends.voting import WEIGHTS
from evaluation.cache import Cache
from evaluation.embeddings import Methods
from evaluation.encode import check_fit, encode_part, join_parts
from evaluation.images import open_splits
from evaluation.items import Item, Latents, file_name
from evaluation.measures.measure import Measure
from evaluation.measures.protocol import (
    LABELS_PER_CLASS,
    NEIGHBOURS,
    Points,
    known_labels,
    make_protocol,
    reference_rows,
    test_labels_of,
)
from evaluation.pixels import Pixels
from evaluation.sampling import folds, rarest, rows_of, stratified_rows
from vae_dist.run.load import load_run

Labels = tuple[np.ndarray, np.ndarray]
Cells = dict[tuple[Any, ...], list[float]]


@dataclass(kw_only=True)
class BenchEvaluateConfig:
    """The comparison against the straightforward way."""

    data: str | None = None
    """The data folder: a path or a URL."""
    runs: tuple[Path, ...] = ()
    """Run folders or .pth.tar files whose latents are compared too. Encoding is not timed."""
    train_images: Annotated[int, AtLeast(0)] = 0
    """Number of training images that are used; 0: all."""
    dims: Annotated[tuple[int, ...], AtLeast(1)] = (2, 10)
    """Dimensions of PCA and UMAP."""
    umap: bool = True
    """Time UMAP too, which takes most of the time."""
    repeats: Annotated[int, AtLeast(1)] = 5
    """Samples of labels that the test figure is repeated over."""
    seed: int = 42
    """Of samples and UMAP."""

    def __post_init__(self) -> None:
        check_fields(self)


def bench_evaluate(
    config: BenchEvaluateConfig, tell: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Time both ways on the CPU and compare their figures.

    Returns
    -------
    dict
        ``seconds`` of each stage of both ways, ``speedup``, and ``differences``: the largest of
        all KNN accuracies and of PCA's explained variances.
    """
    if config.data is None:
        raise UserError("--data: give a data folder that vae-dist prepare wrote")
    with tempfile.TemporaryDirectory() as folder:
        splits = open_splits(open_data(config.data), Cache(Path(folder)))
    train, test = splits["train"], splits["test"]
    rows = rows_of(len(train), config.train_images or len(train), config.seed, "bench")
    if (reason := known_labels(train.labels[rows], test.labels)).note or reason.missing:
        raise UserError(f"{config.data}: {reason.missing or reason.note}; bench needs every label")
    latents = []
    for path in config.runs:
        run = load_run(path, "cpu", "best")
        check_fit(run, train.shape)
        tell(f"encode {path}")
        part = encode_part(run, splits, World(), seed=config.seed, nll_samples=0, nll_images=1)
        found = join_parts([part])
        name = file_name(run.name)
        latents.append(Latents(name, found["train/mu"][rows], found["test/mu"], name))
    pixels, labels = (
        (Pixels(train).whole()[rows], Pixels(test).whole()),
        (train.labels[rows], test.labels),
    )
    tell("the comparison as it is done here")
    ours, items, figures = _alone(_ours, config, *pixels, labels, latents)
    tell("the straightforward way")
    theirs, variances, cells = _alone(_straightforward, config, *pixels, labels, items)
    own = {
        (i, f["metric"], f.get("labels_per_class"), f["k"], f["weights"]): f["values"]
        for i, found in figures.items()
        for f in found
        if f["value"] is not None
    }
    assert own.keys() == cells.keys()
    knn = max(np.abs(np.subtract(own[cell], value)).max() for cell, value in cells.items())
    variance = max(
        abs(item.embedding.parameters["explained_variance"] - variances[item.embedding.dim])
        for item in items
        if item.embedding.method == "pca"
    )
    totals = sum(ours.values()), sum(theirs.values())
    return {
        "machine": {"cpus": os.cpu_count(), "load": os.getloadavg()},
        "images": {"train": len(rows), "test": len(test)},
        "embeddings": [item.embedding.id for item in items],
        "seconds": {"here": ours, "straightforward": theirs},
        "total_seconds": {"here": totals[0], "straightforward": totals[1]},
        "speedup": totals[1] / totals[0],
        "differences": {
            "knn_accuracy": float(knn),
            "cells": len(cells),
            "explained_variance": float(variance),
        },
    }


def _alone(way: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns, called in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(way, *arguments).result()


def _ours(
    config: BenchEvaluateConfig,
    train: np.ndarray,
    test: np.ndarray,
    labels: Labels,
    latents: list[Latents],
) -> tuple[dict[str, float], list[Item], dict[str, list[dict[str, Any]]]]:
    backends = Backends("cpu")
    classes = int(max(part.max() for part in labels)) + 1
    with tempfile.TemporaryDirectory() as folder:
        stages = backends.stages()
        methods = Methods(
            backends,
            stages,
            Cache(Path(folder), fresh=True),
            Pixels(train),
            Pixels(test),
            data_key="bench",
            dims=config.dims,
            seed=config.seed,
        )
        compared = ("pca", "umap", "vae") if config.umap else ("pca", "vae")
        items = list(methods.embeddings(compared, latents))
        sample = reference_rows(len(test), test.shape[1], config.seed)
        protocol = make_protocol("quick", config.seed, config.repeats)
        measure = Measure(protocol, backends, test[sample], sample)
        figures = {}
        for item in items:
            points = Points(item.train, item.test, *labels, classes)
            with stages.stage("knn", item.embedding.id):
                figures[item.embedding.id] = list(measure.knn_figures(points))
    seconds: dict[str, float] = {}
    for stage in stages.done:
        seconds[stage.stage] = seconds.get(stage.stage, 0.0) + stage.seconds
    return seconds, items, figures


def _straightforward(
    config: BenchEvaluateConfig,
    train: np.ndarray,
    test: np.ndarray,
    labels: Labels,
    items: list[Item],
) -> tuple[dict[str, float], dict[int, float], Cells]:
    seconds = dict.fromkeys(("pca", "umap", "knn"), 0.0)

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds[stage] += time.perf_counter() - start

    variances = {}
    for dim in config.dims:
        with timed("pca"):
            variances[dim] = _pca_alone(train, test, dim)
        if config.umap:
            with timed("umap"):
                _umap_alone(train, test, dim, config.seed)
    cells: Cells = {}
    for item in items:
        with timed("knn"):
            cells |= _every_cell(config, item, labels)
    return seconds, variances, cells


def _pca_alone(train: np.ndarray, test: np.ndarray, dim: int) -> float:
    from sklearn.decomposition import PCA

    train, test = train.astype(np.float64), test.astype(np.float64)  # as images / 255 gives them
    pca = PCA(dim).fit(train)
    pca.transform(train), pca.transform(test)
    return float(pca.explained_variance_ratio_.sum())


def _umap_alone(train: np.ndarray, test: np.ndarray, dim: int, seed: int) -> None:
    import umap

    model = umap.UMAP(
        n_neighbors=5, min_dist=0.1, n_components=dim, init="random", random_state=seed, n_jobs=1
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit_transform(train)
        model.transform(test)


def _every_cell(config: BenchEvaluateConfig, item: Item, labels: Labels) -> Cells:
    from sklearn.neighbors import KNeighborsClassifier

    name = item.embedding.id
    train, test = item.train.astype(np.float64), item.test.astype(np.float64)
    own, other = labels
    cells: Cells = {}
    per_class = test_labels_of(own)
    for repeat in range(config.repeats):
        rows = stratified_rows(own, per_class, config.seed, repeat)
        for k, weights in product((k for k in NEIGHBOURS if k <= len(rows)), WEIGHTS):
            knn = KNeighborsClassifier(k, weights=weights, n_jobs=-1).fit(train[rows], own[rows])
            cell = (name, "knn_test_accuracy", per_class, k, weights)
            cells.setdefault(cell, []).append(float((knn.predict(test) == other).mean()))
    for count in (n for n in LABELS_PER_CLASS if n <= rarest(own)):
        rows = stratified_rows(own, count, config.seed)
        sample, truth = train[rows], own[rows]
        for k in (k for k in NEIGHBOURS if k <= len(rows) * 4 // 5):
            scores = []
            for fit, score in folds(truth):
                knn = KNeighborsClassifier(k, weights="distance", n_jobs=-1)
                knn.fit(sample[fit], truth[fit])
                scores.append(float((knn.predict(sample[score]) == truth[score]).mean()))
            cells[name, "knn_cv_accuracy", count, k, "distance"] = [sum(scores) / len(scores)]
    return cells
