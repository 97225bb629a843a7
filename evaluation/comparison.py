"""One evaluation on the first process, once the runs are encoded."""

from __future__ import annotations

import json
import math
import shutil
from typing import Any

import numpy as np

from evaluation.artifacts import Artifacts
from evaluation.backends.pca import Pca
from evaluation.cache import Cache
from evaluation.embeddings import Methods
from evaluation.encode import run_figures
from evaluation.features import Distances, Features
from evaluation.files import write_arrays
from evaluation.items import Item, Latents
from evaluation.measures.latents import posterior_figures, smoothness
from evaluation.measures.protocol import shown_rows
from evaluation.measuring import Measuring, check_figures, rows_of_figures
from evaluation.pixel_pca import MOST_COMPONENTS
from evaluation.pixels import Pixels
from evaluation.results.records import Results, Row, RunInfo
from evaluation.runs import Encoded
from evaluation.stages import cost, cost_of
from evaluation.state import Evaluation
from evaluation.team import Team
from vae_dist.run.trained import Run

UNITS = {
    "recon": "nats",
    "recon_mean": "nats",
    "kl": "nats",
    "elbo": "nats",
    "nll": "nats",
    "psnr": "dB",
}


class Comparison:
    """Measures every embedding and fills the evaluation folder."""

    def __init__(
        self, evaluation: Evaluation, results: Results, features: Features | None = None
    ) -> None:
        self.evaluation, self.results = evaluation, results
        self.config, self.splits = evaluation.config, evaluation.splits
        self.backends, self.stages = evaluation.backends, evaluation.stages
        train, test = (Pixels(self.splits[name]) for name in ("train", "test"))
        seed = self.config.seed
        self.distances = features and Distances(features, self.splits["test"], seed)
        self.team = Team(self.backends, evaluation.world, evaluation.out, evaluation.wait)
        self.methods = Methods(
            self.backends,
            self.stages,
            evaluation.cache,
            train,
            test,
            data_key=results.data_fingerprint,
            dims=self.config.dims,
            seed=seed,
            team=self.team,
        )
        self.measuring = Measuring(evaluation, self.methods.pixels, len(results.classes))
        if evaluation.leads:
            self.artifacts = Artifacts(self.splits, shown_rows(len(test), seed), seed)

    def carry_out(self, encoded: list[Encoded]) -> None:
        """Fill the results and write every array; the processes share the figures."""
        items = []
        if self.evaluation.leads:
            items = self._embeddings(encoded)
            self.team.dismiss()
        else:
            self.team.serve()
        # Each embedding is measured and mapped, and then the report is written.
        self.stages.plan(2 * len(items) + self.config.report)
        self.measuring.share(items)
        if self.evaluation.leads:
            self.team.clear()
        for item in items:
            self._embedding(item)
        if self.evaluation.leads:
            self.results.not_made = self.methods.not_made
            self.artifacts.write(self.evaluation.out, self.results.runs)

    def _embeddings(self, encoded: list[Encoded]) -> list[Item]:
        """Make and write every embedding, and the rows of the runs themselves."""
        folder = self.evaluation.out / "embeddings"
        shutil.rmtree(folder, ignore_errors=True)
        train, test = self.splits["train"], self.splits["test"]
        write_arrays(
            folder / "labels.npz",
            {
                "train_labels": train.labels,
                "test_labels": test.labels,
                "train_index": train.index,
                "test_index": test.index,
                "classes": np.array(self.results.classes, dtype=np.str_),
            },
        )
        latents = []
        for info, run, arrays in encoded:
            self._run_rows(info, run, arrays)
            key = Cache.key("mu", info.content_hash, self.results.data_fingerprint)
            mu = arrays["train/mu"], arrays["test/mu"]
            latents.append(Latents(info.name, *mu, key, cost_of(arrays)))
        items = []
        for item in self.methods.embeddings(self.config.methods, latents):
            items.append(item)
            if item.embedding.method != "raw":  # the data folder holds the pixels
                arrays = {name: getattr(item, name) for name in ("train", "test")}
                host = {name: self.backends.to_host(part) for name, part in arrays.items()}
                write_arrays(folder / f"{item.embedding.id}.npz", host)
        return items

    def _run_rows(self, info: RunInfo, run: Run, latents: dict[str, np.ndarray]) -> None:
        """Figures of a run itself and its pictures."""
        common: dict[str, Any] = {
            "dataset": self.results.dataset,
            "method": "vae",
            "dim": info.latent_size,
            "run": info.name,
            "embedding": f"vae-{info.latent_size}-{info.name}",
        }
        for metric, value in run_figures(latents).items():
            note = None
            if metric == "nll":
                note = f"{self.config.nll_samples} importance samples, {len(latents['test/nll'])} images"
            elif metric in ("recon_mean", "ssim", "ssim11", "psnr", "mse"):
                note = "from z = mu"
            unit = UNITS.get(metric)
            self._add(
                {**common, "metric": metric, "value": value, "split": "test", "unit": unit}
                | {"seed": self.config.seed, "note": note}
            )
        for figure in posterior_figures(latents, self.config.seed):
            self._add(common | figure)
        if self.distances:
            for figure in self._distances(self.distances, info, run):
                self._add(common | figure)
        labels, mu = self.splits["test"].labels, latents["test/mu"]
        pca = self._pca_beside(info)
        with self.stages.stage("pictures", info.name):
            pixels = math.prod(run.image_shape)
            for figure in smoothness(run.decode, mu, labels, self.config.seed, pixels):
                self._add(common | figure)
            self.artifacts.add_run(info, run, mu.std(0))
            if pca is None:
                return
            for metric, value in self.artifacts.add_pca(pca, info.latent_size).items():
                self._add(
                    {
                        "dataset": self.results.dataset,
                        "method": "pca",
                        "dim": info.latent_size,
                        "metric": metric,
                        "value": value,
                        "split": "test",
                        "unit": UNITS.get(metric),
                        "embedding": f"pca-{info.latent_size}",
                    }
                )

    def _pca_beside(self, info: RunInfo) -> Pca | None:
        """PCA of as many components as a run has latents, where that is asked for and possible."""
        if "pca" not in self.config.methods or info.latent_size > self.methods.pixels.rank:
            return None
        if info.latent_size > MOST_COMPONENTS:
            reason = f"beside {info.name}: more than {MOST_COMPONENTS:,} components"
            self.methods.leave_out(f"pca-{info.latent_size}", reason)
            return None
        return self.methods.pixels.fit(info.latent_size)[0]

    def _distances(self, distances: Distances, info: RunInfo, run: Run) -> list[dict[str, Any]]:
        """How far a run's images are from the test images, kept in the cache."""
        features = distances.features
        facts = (features.key, features.name, run.content_hash, self.results.data_fingerprint)
        key = Cache.key("distances", *facts, self.config.seed, run.device.type)
        kept = self.evaluation.cache.record("distances", key, check_figures)
        where = "cache" if kept else str(run.device)
        with self.stages.stage("distances", info.name, where) as record:
            figures = list(kept["figures"] if kept else distances.figures(run))
        if not kept:
            held = json.loads(json.dumps({"figures": figures, **cost(record)}))
            self.evaluation.cache.keep_record("distances", key, held)
        return figures

    def _embedding(self, item: Item) -> None:
        """Add an embedding's rows and maps."""
        embedding = item.embedding
        fixed: dict[str, Any] = {
            "dataset": self.results.dataset,
            "method": embedding.method,
            "dim": embedding.dim,
            "run": embedding.run,
            "embedding": embedding.id,
        }
        rows = rows_of_figures(
            self.measuring.figures(item), {**fixed, "seconds": embedding.seconds}
        )
        if "explained_variance" in embedding.parameters:
            value = embedding.parameters["explained_variance"]
            rows.append(Row(**fixed, metric="explained_variance", split="train", value=value))
        self.results.rows += rows
        with self.stages.stage("map", embedding.id, self.backends.used):
            shown, train_rows = self.artifacts.sample, self.artifacts.train_sample
            embedding.map, own, behind = self.methods.flat_map(item, shown, train_rows)
            self.artifacts.add_map(embedding.id, own, behind)
            tests = [
                row
                for row in rows
                if (row.metric, row.weights) == ("knn_test_accuracy", "uniform")
                and row.value is not None
            ]
            if tests:
                best = max(tests, key=lambda row: row.value or 0.0)
                matrix, predicted = self.measuring.confusion(item, best.k or 1)
                self.artifacts.add_confusion(embedding.id, matrix, predicted)
        self.results.embeddings.append(embedding)

    def _add(self, fields: dict[str, Any]) -> None:
        self.results.rows.append(Row(**fields))
