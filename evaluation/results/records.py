"""What an evaluation writes, and how to read it back.

An evaluation folder ``eval/NAME/``::

    results.json            everything below but arrays; see `Results`
    results.csv             its rows, one a line
    leaderboard.csv         one line for each embedding, best first; see `leaderboard`
    curves.json             {RUN: [records of the run's metrics.jsonl]}, train records thinned
    embeddings/labels.npz   train_labels, test_labels (int64), train_index, test_index (int64,
                            position in the source split), classes (unicode)
    embeddings/ID.npz       train (60000, dim) and test (10000, dim), float32
    artifacts.npz           pictures and maps for the report, below
    figures/*.png           evaluation.figures
    report.html             evaluation.report

``ID`` names an embedding: ``METHOD-DIM`` (``raw-784``, ``pca-2``, ``umap-10``) or, for what
depends on trained runs, ``METHOD-DIM-RUN`` (``vae-10-fmnist_best``). RUN is the run's name as
in ``results.json``; names are unique there and fit for a file. ``results.json`` lists all of
them under ``embeddings``, in the order in which a reader wants them.

``artifacts.npz`` (rows of all ``map/`` and ``sample_`` arrays belong together)::

    sample_images     (n, C, h, w) uint8   a sample of the test images, n <= 3000, at most 64
                                           pixels a side
    sample_labels     (n,) int64           -1 where the set has no labels
    sample_position   (n,) int64           row in the ``test`` array of each embedding
    sample_predicted/ID  (n,) int64        the KNN test figure's prediction for the sample
    predicted/ID      (test,) int64        the same for every test image
    map/ID            (n, 2) float32       the sample in two dimensions: the embedding itself
                                           where dim is 2, its first two principal axes
                                           (fitted on its ``train``) where it is not
    map_train/ID      (m, 2) float32       the same for map_train_position, for dense scatters
    map_train_position (m,) int64          rows of ``train``, m <= 10000
    confusion/ID      (classes, classes) int64  test images, rows the truth, columns predicted,
                                           by the KNN test figure of `TEST_FIGURE`
    originals         (m, C, H, W) uint8   m = 20 test images, two of each class where it can be
    reconstruction/RUN      (m, C, H, W) uint8   from z = mu
    reconstruction/pca-DIM  (m, C, H, W) uint8   by PCA with as many components
    samples/RUN       (64, C, H, W) uint8  decoded draws from the prior
    traversal/RUN     (rows, 9, C, H, W) uint8   one latent moved from -3 to 3 posterior
                                           standard deviations of the aggregate, most active
                                           first, at most 10 rows; traversal_latent/RUN (rows,)
    interpolation/RUN (rows, 9, C, H, W) uint8   straight lines between latents of test images

A key of a kind may be missing (no runs, no labels): readers take what there is.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

SCHEMA = 1

# The test figure: neighbours fitted on 500 labels a class, or on as many as the rarest has.
TEST_FIGURE = {"metric": "knn_test_accuracy", "labels_per_class": 500, "weights": "uniform"}


@dataclass(kw_only=True)
class Row:
    """One figure with the settings that made it.

    ``value`` is the mean over ``repeats`` seeds; ``ci_low`` and ``ci_high`` bound its 95 %
    t interval, cut where the figure cannot be, and ``std`` is the standard deviation over the
    seeds, None for one repeat. For one repeat ``ci_low`` and ``ci_high`` bound the Wilson
    interval of an accuracy over its test images, and are None for other figures. A figure that could not be measured has the value None and
    its reason as ``note``.
    """

    dataset: str
    method: str  # raw, pca, umap, vae, vae_white, vae_umap, concat, ensemble
    dim: int
    metric: str
    value: float | None
    run: str | None = None
    embedding: str | None = None  # ID; None where the figure is of a run and not of an embedding
    split: str | None = None  # the images it was measured on: train, test
    labels_per_class: int | None = None  # None: all
    k: int | None = None
    weights: str | None = None  # uniform, distance
    folds: int | None = None
    seed: int | None = None  # of the first repeat
    repeats: int = 1
    std: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    values: list[float] | None = None  # of each repeat
    unit: str | None = None  # nats, bits, None for ratios
    index: int | None = None  # latent or class, where a metric has one value for each
    backend: str | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    note: str | None = None


@dataclass(kw_only=True)
class Stage:
    """One step of the work, as it was carried out."""

    stage: str  # encode, standardise, pca, neighbours, umap, umap_transform, knn, ...
    embedding: str | None
    backend: str  # cuml, cpu, or a torch device for encode; "cache" where nothing was computed
    seconds: float
    peak_memory_bytes: int | None = None
    note: str | None = None  # parameters, or why it fell back


@dataclass(kw_only=True)
class Embedding:
    """An embedding that lies in the folder."""

    id: str
    method: str
    dim: int
    title: str
    run: str | None = None
    map: str = "itself"  # how map/ID was made: itself, pca
    backend: str = "cpu"
    parameters: dict[str, Any] = field(default_factory=dict)  # of the method, with its seed
    seconds: float | None = None  # to make it, without the stages that embeddings share
    fit_seconds: float | None = None  # with those stages, without the training of a VAE
    transform_seconds: float | None = None  # of the images that fitting does not embed by itself
    peak_memory_bytes: int | None = None


@dataclass(kw_only=True)
class RunInfo:
    """A trained run that was evaluated."""

    name: str
    path: str
    content_hash: str
    step: int
    latent_size: int
    model: dict[str, Any] = field(default_factory=dict)
    num_parameters: int | None = None
    training_seconds: float | None = None  # up to this step, by the run's metrics.jsonl
    seed: int | None = None  # of the training
    training: str | None = None  # hash of all other settings that decide it


@dataclass(kw_only=True)
class Failure:
    """A run that could not be evaluated, and why, in one line."""

    run: str
    error: str


@dataclass(kw_only=True)
class NotMade:
    """An embedding that was asked for and could not be made, and why."""

    embedding: str
    reason: str


@dataclass(kw_only=True)
class Results:
    """Contents of ``results.json``."""

    dataset: str
    data_fingerprint: str
    image_shape: list[int]
    classes: list[str]
    counts: dict[str, int]  # train (with val), test
    protocol: str  # quick, article2018, all_labels, full
    seed: int
    backend: dict[str, Any]  # asked, used, reason, device
    versions: dict[str, str]
    settings: dict[str, Any] = field(default_factory=dict)
    runs: list[RunInfo] = field(default_factory=list)
    embeddings: list[Embedding] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    stages: list[Stage] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    not_made: list[NotMade] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)  # of runs scored on data not their own
    seconds: float | None = None

    def find(self, metric: str, **settings: Any) -> list[Row]:
        """Rows of a metric whose named fields have the given values."""
        return [
            row
            for row in self.rows
            if row.metric == metric
            and all(getattr(row, name) == value for name, value in settings.items())
        ]

    def as_json(self) -> dict[str, Any]:
        """The object that ``results.json`` holds; NaN and infinity become null."""
        return {"schema": SCHEMA, **_finite(dataclasses.asdict(self))}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
