"""One evaluation on the first process, once the runs are encoded."""

from __future__ import annotations

import dataclasses
import json
import shutil
import sys
from typing import Any

import numpy as np

from data_pipeline.folder.factors import factors_of, values_of
from data_pipeline.plugins import described
from data_pipeline.records import read_record
from evaluation.artifacts import Artifacts
from evaluation.cache import Cache
from evaluation.embeddings import Methods
from evaluation.encode import run_figures
from evaluation.features import Distances, Features
from evaluation.files import read_arrays, write_arrays, write_text
from evaluation.items import Item, Latents
from evaluation.measures.disentanglement import disentanglement
from evaluation.measures.latents import emptiness, posterior_figures, smoothness
from evaluation.measures.measure import METRICS, Measure
from evaluation.measures.protocol import Points, make_protocol, reference_rows, shown_rows
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
        self.factors = factors_of(evaluation.data.manifest)
        self.protocol = make_protocol(self.config.protocol, seed, self.config.repeats)
        self.distances = features and Distances(features, self.splits["test"], seed)
        rows = reference_rows(*test.shape, seed)
        reference = self.backends.put(test.take(rows))
        self.measure = Measure(self.protocol, self.backends, reference, rows)
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
        self.records = evaluation.cache  # of figures
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
        self._plan(items)
        self._share_figures(items)
        for item in items:
            self._embedding(item)
        if self.evaluation.leads:
            self.results.not_made = self.methods.not_made
            self.artifacts.write(self.evaluation.out, self.results.runs)

    def _plan(self, items: list[Item], shared: int = 0) -> None:
        """How many stages remain: each embedding is measured and mapped, and then the report."""
        self.stages.plan(shared + 2 * len(items) + self.config.report)

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

    def _share_figures(self, items: list[Item]) -> None:
        """Measure the embeddings, those of most dimensions first, each on one process.

        What a process could not measure is left to the first one, which then says why.
        """
        plan = self.evaluation.out / ".plan.json"
        if self.evaluation.world.size == 1:
            return
        if self.evaluation.leads:
            listed = sorted(
                (-item.embedding.dim, item.embedding.id, item.key)
                for item in items
                if self._kept(item.key) is None
            )
            for _, _, key in listed:  # with --fresh there may be old ones
                self.records.forget("figures", self._key(key))
            write_text(plan, json.dumps(listed))
        self.evaluation.wait()
        self.records = Cache(self.records.folder, tell=self.records.tell)
        mine = json.loads(plan.read_text())[
            self.evaluation.world.rank :: self.evaluation.world.size
        ]
        by_id = {item.embedding.id: item for item in items}
        self._plan(items, len(mine))
        for _, name, key in mine:
            try:
                self._measure(key, *self._arrays(name, by_id.get(name)), name)
            except Exception as error:
                print(f"{name}: not measured by this process: {error!r}", file=sys.stderr)
        self.evaluation.wait()
        if self.evaluation.leads:
            plan.unlink()
            self.team.clear()

    def _arrays(self, name: str, item: Item | None) -> tuple[Any, Any]:
        """An embedding, from memory or from the evaluation folder."""
        if item is not None:
            return item.train, item.test
        if name.startswith("raw-"):
            return self.methods.pixels.arrays
        arrays = read_arrays(self.evaluation.out / "embeddings" / f"{name}.npz")
        return self.backends.put(arrays["train"]), self.backends.put(arrays["test"])

    def _key(self, key: str) -> str:
        protocol = dataclasses.asdict(self.protocol) | described(METRICS)
        factors = [list(self.factors.items())] if self.factors else []
        return Cache.key("figures", key, protocol, self.methods.where, *factors)

    def _kept(self, key: str) -> dict[str, Any] | None:
        """Figures from the cache, or of this evaluation, and what they cost."""
        found: dict[str, Any] | None = self.records.record(
            "figures", self._key(key), _check_figures
        )
        return found

    def _measure(self, key: str, train: Any, test: Any, name: str) -> dict[str, Any]:
        """The figures of an embedding, kept in the cache."""
        points = self._points(train, test)
        with self.stages.stage("measure", name, self.backends.used) as record:
            figures = list(self.measure.figures(points))
            if not name.startswith("raw-"):
                host = self.backends.to_host(train), self.backends.to_host(test)
                figures += emptiness(*host, points.test_labels, self.config.seed)
                if self.factors:
                    values = values_of(self.factors, self.splits["test"].index)
                    figures += disentanglement(
                        host[1], values, list(self.factors), self.config.seed
                    )
        held = json.loads(json.dumps({"figures": figures, **cost(record)}))
        self.records.keep_record("figures", self._key(key), held)
        return held

    def _points(self, train: Any, test: Any) -> Points:
        labels = [self.splits[name].labels for name in ("train", "test")]
        return Points(train, test, labels[0], labels[1], len(self.results.classes))

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
        with self.stages.stage("pictures", info.name):
            for figure in smoothness(run.decode, mu, labels, self.config.seed):
                self._add(common | figure)
            self.artifacts.add_run(info, run, mu.std(0))
            if "pca" not in self.config.methods or info.latent_size > self.methods.pixels.rank:
                return
            if info.latent_size > MOST_COMPONENTS:
                reason = f"beside {info.name}: more than {MOST_COMPONENTS:,} components"
                self.methods.leave_out(f"pca-{info.latent_size}", reason)
                return
            pca, _ = self.methods.pixels.fit(info.latent_size)
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

    def _distances(self, distances: Distances, info: RunInfo, run: Run) -> list[dict[str, Any]]:
        """How far a run's images are from the test images, kept in the cache."""
        features = distances.features
        facts = (features.key, features.name, run.content_hash, self.results.data_fingerprint)
        key = Cache.key("distances", *facts, self.config.seed, run.device.type)
        kept = self.records.record("distances", key, _check_figures)
        where = "cache" if kept else str(run.device)
        with self.stages.stage("distances", info.name, where) as record:
            figures = list(kept["figures"] if kept else distances.figures(run))
        if not kept:
            held = json.loads(json.dumps({"figures": figures, **cost(record)}))
            self.records.keep_record("distances", key, held)
        return figures

    def _embedding(self, item: Item) -> None:
        """Add an embedding's rows and maps."""
        embedding = item.embedding
        kept = self._kept(item.key)
        if kept is None:
            kept = self._measure(item.key, item.train, item.test, embedding.id)
        else:
            with self.stages.stage("measure", embedding.id, "cache") as record:
                seconds = f"{kept['seconds']:.1f} s"
                record.note = (
                    f"measured on {kept['backend']} in {seconds}, here or by another process"
                )
        fixed: dict[str, Any] = {
            "dataset": self.results.dataset,
            "method": embedding.method,
            "dim": embedding.dim,
            "run": embedding.run,
            "embedding": embedding.id,
        }
        rows = _rows(kept["figures"], {**fixed, "seconds": embedding.seconds})
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
                points = self._points(item.train, item.test)
                matrix, predicted = self.measure.confusion(points, best.k or 1)
                self.artifacts.add_confusion(embedding.id, matrix, predicted)
        self.results.embeddings.append(embedding)

    def _add(self, fields: dict[str, Any]) -> None:
        self.results.rows.append(Row(**fields))


@dataclasses.dataclass
class _Figures:
    """What the cache keeps of an embedding's figures."""

    figures: list[dict[str, Any]]
    backend: str
    seconds: float
    peak_memory_bytes: int | None


def _check_figures(record: Any) -> None:
    """Refuse a record of another structure."""
    found = read_record(_Figures, record, "the figures")
    _rows(found.figures, {"dataset": "", "method": "", "dim": 1})


def _rows(figures: list[dict[str, Any]], fixed: dict[str, Any]) -> list[Row]:
    """Rows of figures that may come from a file."""
    return [read_record(Row, {**fixed, **figure}, "a figure") for figure in figures]
