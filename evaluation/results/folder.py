"""An evaluation folder as figures, report and projector read it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.records import read_json, read_record
from evaluation.results.files import read_results
from evaluation.results.layout import read_artifacts, read_labels
from evaluation.results.leaderboard import leaderboard
from evaluation.results.records import TEST_FIGURE, Embedding, Results, Row


@dataclass(frozen=True)
class Folder:
    """Results and arrays of one evaluation, each file read once and only when asked for."""

    path: Path

    @cached_property
    def results(self) -> Results:
        """What ``results.json`` holds."""
        return read_results(self.path)

    @cached_property
    def artifacts(self) -> dict[str, np.ndarray]:
        """Arrays of ``artifacts.npz``; empty where there is none."""
        path = self.path / "artifacts.npz"
        return read_artifacts(path, self.results) if path.is_file() else {}

    @cached_property
    def curves(self) -> dict[str, list[dict[str, Any]]]:
        """Training records by run; empty where there are none."""
        path = self.path / "curves.json"
        if not path.is_file():
            return {}
        held = read_json(path, fix="run vae-dist evaluate again")
        return read_record(_Curves, {"runs": held}, str(path)).runs

    @cached_property
    def labels(self) -> dict[str, np.ndarray]:
        """Arrays of ``embeddings/labels.npz``; empty where there is none."""
        path = self.path / "embeddings" / "labels.npz"
        return read_labels(path, self.results) if path.is_file() else {}

    @cached_property
    def board(self) -> list[dict[str, Any]]:
        """One line an embedding, best first."""
        return leaderboard(self.results)

    def embedding(self, name: str) -> Embedding:
        """The embedding of this ID."""
        return next(item for item in self.results.embeddings if item.id == name)

    def named(self, kind: str) -> dict[str, np.ndarray]:
        """Artifacts ``kind/NAME`` by NAME, in the order of `Results` where that has one."""
        prefix = f"{kind}/"
        found = {
            key.removeprefix(prefix): value
            for key, value in self.artifacts.items()
            if key.startswith(prefix)
        }
        known = [item.id for item in self.results.embeddings]
        known += [run.name for run in self.results.runs]
        order = {name: place for place, name in enumerate(known)}
        return dict(sorted(found.items(), key=lambda item: order.get(item[0], len(order))))

    def maps(self) -> dict[str, np.ndarray]:
        """Two-dimensional maps of the sample, by embedding ID, without doubles.

        Raw pixels and PCA in any dimension have the same two principal axes, so one of them
        stands for all. The others differ.
        """
        maps = self.named("map")
        kept: dict[str, np.ndarray] = {}
        linear = False
        items = [item for item in self.results.embeddings if item.id in maps]
        for item in sorted(items, key=lambda item: item.id != "pca-2"):
            if item.method in ("raw", "pca"):
                if linear:
                    continue
                linear = True
            kept[item.id] = maps[item.id]
        return kept

    def compared(self) -> list[str]:
        """IDs of the three panels: PCA, UMAP and the best VAE, as far as they have a map."""
        maps = self.maps()
        items = [self.embedding(name) for name in maps]
        chosen = [item.id for item in items if item.method in ("pca", "raw")][:1]
        chosen += [item.id for item in sorted(items, key=_dim) if item.method == "umap"][:1]
        ranked = [line["embedding"] for line in self.board if line["method"] == "vae"]
        vae = [name for name in ranked if name in maps]
        chosen += vae[:1]
        return chosen or list(maps)[:3]

    def rows(self, metric: str, **settings: Any) -> list[Row]:
        """Rows of a metric that have a value."""
        found = self.results.find(metric, **settings)
        return [row for row in found if row.value is not None]

    def test_rows(self) -> list[Row]:
        """Rows of the 2018 article's test figure; smaller sets give fewer labels a class."""
        return self.rows("knn_test_accuracy", weights=TEST_FIGURE["weights"])

    @property
    def test_labels(self) -> int:
        """Labels a class that the test figure was fitted on."""
        counts = [row.labels_per_class for row in self.test_rows() if row.labels_per_class]
        return max(counts, default=0)


@dataclass
class _Curves:
    """``curves.json``, by run."""

    runs: dict[str, list[dict[str, Any]]]


def _dim(item: Embedding) -> int:
    return item.dim
