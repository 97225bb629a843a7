"""One evaluation on the first process, once the runs are encoded."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.records import read_record
from evaluation.artifacts import Artifacts
from evaluation.backends.choose import Backends
from evaluation.cache import Cache
from evaluation.embeddings import Methods
from evaluation.encode import Images, run_figures
from evaluation.files import write_arrays
from evaluation.items import Item, Latents
from evaluation.measures.latents import emptiness, posterior_figures, smoothness
from evaluation.measures.measure import Measure
from evaluation.measures.protocol import Points, make_protocol, reference_rows
from evaluation.results.records import Results, Row, RunInfo
from evaluation.runs import Encoded
from evaluation.settings import EvaluateConfig
from evaluation.stages import Stages, cost_of
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
        self,
        config: EvaluateConfig,
        results: Results,
        splits: dict[str, Images],
        backends: Backends,
        stages: Stages,
        cache: Cache,
        out: Path,
    ) -> None:
        self.config, self.results, self.splits = config, results, splits
        self.backends, self.stages, self.cache, self.out = backends, stages, cache, out
        self.train, self.test = splits["train"].rows(), splits["test"].rows()
        sample = reference_rows(len(self.test), config.seed)
        self.protocol = make_protocol(config.protocol, config.seed, config.repeats)
        self.measure = Measure(self.protocol, backends, backends.put(self.test[sample]), sample)
        self.artifacts = Artifacts(splits, sample, config.seed)
        self.methods = Methods(
            backends,
            stages,
            cache,
            self.train,
            self.test,
            data_key=results.data_fingerprint,
            dims=config.dims,
            seed=config.seed,
        )

    def carry_out(self, encoded: list[Encoded]) -> None:
        """Fill the results and write every array."""
        embeddings = self.out / "embeddings"
        shutil.rmtree(embeddings, ignore_errors=True)
        train, test = self.splits["train"], self.splits["test"]
        write_arrays(
            embeddings / "labels.npz",
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
        for item in self.methods.embeddings(self.config.methods, latents):
            self._embedding(item, embeddings)
        self.results.not_made = self.methods.not_made
        self.artifacts.write(self.out, self.results.runs)

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
        labels, mu = self.splits["test"].labels, latents["test/mu"]
        with self.stages.stage("pictures", info.name):
            for figure in smoothness(run.decode, mu, labels, self.config.seed):
                self._add(common | figure)
            self.artifacts.add_run(info, run, mu.std(0))
            if info.latent_size > self.methods.rank:
                return
            pca = self.methods.pixel_pca(info.latent_size)
            for metric, value in self.artifacts.add_pca(self.test, pca, info.latent_size).items():
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

    def _embedding(self, item: Item, folder: Path) -> None:
        """Measure, draw and write one embedding."""
        embedding = item.embedding
        to_host = self.backends.to_host
        points = Points(
            item.train,
            item.test,
            self.splits["train"].labels,
            self.splits["test"].labels,
            len(self.results.classes),
        )
        protocol = dataclasses.asdict(self.protocol)
        key = Cache.key("figures", item.key, protocol, self.methods.where)
        fixed = {
            "dataset": self.results.dataset,
            "method": embedding.method,
            "dim": embedding.dim,
            "run": embedding.run,
            "embedding": embedding.id,
        }
        kept = self.cache.record("figures", key, lambda record: _rows(record, fixed))
        with self.stages.stage(
            "measure", embedding.id, "cache" if kept else self.backends.used
        ) as record:
            if kept is None:
                kept = self._figures(item, points)
                self.cache.keep_record("figures", key, kept)
        self.results.rows += _rows(kept, {**fixed, "seconds": embedding.seconds})
        with self.stages.stage("map", embedding.id, record.backend):
            rows, train_rows = self.artifacts.sample, self.artifacts.train_sample
            embedding.map, shown, behind = self.methods.flat_map(item, rows, train_rows)
            self.artifacts.add_map(embedding.id, shown, behind)
            tests = [
                figure
                for figure in kept
                if figure["metric"] == "knn_test_accuracy" and figure["value"] is not None
            ]
            if tests:
                best = max(
                    (f for f in tests if f["weights"] == "uniform"), key=lambda f: f["value"]
                )
                matrix, predicted = self.measure.confusion(points, best["k"])
                self.artifacts.add_confusion(embedding.id, matrix, predicted)
        self.results.embeddings.append(embedding)
        if embedding.method != "raw":  # the data folder holds the pixels
            write_arrays(
                folder / f"{embedding.id}.npz",
                {"train": to_host(item.train), "test": to_host(item.test)},
            )

    def _figures(self, item: Item, points: Points) -> list[dict[str, Any]]:
        figures = list(self.measure.figures(points))
        if "explained_variance" in item.embedding.parameters:
            value = item.embedding.parameters["explained_variance"]
            figures.append({"metric": "explained_variance", "split": "train", "value": value})
        if item.embedding.method != "raw":
            figures += emptiness(
                self.backends.to_host(points.train),
                self.backends.to_host(points.test),
                points.test_labels,
                self.config.seed,
            )
        return json.loads(json.dumps(figures))

    def _add(self, fields: dict[str, Any]) -> None:
        self.results.rows.append(Row(**fields))


def _rows(figures: list[dict[str, Any]], fixed: dict[str, Any]) -> list[Row]:
    """Rows of figures that may come from a file."""
    return [read_record(Row, {**fixed, **figure}, "a figure") for figure in figures]
