"""Figures of embeddings: measured once, kept in the cache, shared among the processes."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from data_pipeline.folder.factors import factors_of, values_of
from data_pipeline.plugins import described
from data_pipeline.records import read_record
from evaluation.cache import Cache
from evaluation.files import read_arrays, write_text
from evaluation.items import Item
from evaluation.measures.disentanglement import disentanglement
from evaluation.measures.latents import emptiness
from evaluation.measures.measure import METRICS, Measure
from evaluation.measures.protocol import Points, make_protocol, reference_rows
from evaluation.pixel_pca import PixelPca
from evaluation.results.records import Row
from evaluation.stages import cost
from evaluation.state import Evaluation


class Measuring:
    """Measures the embeddings of an evaluation, each on one process.

    Parameters
    ----------
    evaluation : Evaluation
    pixels : PixelPca
        Of the images.
    classes : int
    """

    def __init__(self, evaluation: Evaluation, pixels: PixelPca, classes: int) -> None:
        self.evaluation, self.pixels, self.classes = evaluation, pixels, classes
        self.backends, self.stages = evaluation.backends, evaluation.stages
        self.splits, self.seed = evaluation.splits, evaluation.config.seed
        self.cache = evaluation.cache
        self.factors = factors_of(evaluation.data.manifest)
        self.protocol = make_protocol(
            evaluation.config.protocol, self.seed, evaluation.config.repeats
        )
        rows = reference_rows(*pixels.test.shape, self.seed)
        reference = self.backends.put(pixels.test.take(rows))
        self.measure = Measure(self.protocol, self.backends, reference, rows)
        self._told: set[str] = set()  # embeddings that this process measured

    def share(self, items: list[Item]) -> None:
        """Measure the embeddings, those of most dimensions first, each on one process.

        What a process could not measure is left to the first one, which then says why.
        """
        world = self.evaluation.world
        if world.size == 1:
            return
        plan = self.evaluation.out / ".plan.json"
        if self.evaluation.leads:
            listed = sorted(
                (-item.embedding.dim, item.embedding.id, item.key)
                for item in items
                if self._kept(item.key) is None
            )
            for _, _, key in listed:  # with --fresh there may be old ones
                self.cache.forget("figures", self._key(key))
            write_text(plan, json.dumps(listed))
        self.evaluation.wait()
        self.cache = Cache(self.cache.folder, tell=self.cache.tell)
        by_id = {item.embedding.id: item for item in items}
        for _, name, key in json.loads(plan.read_text())[world.rank :: world.size]:
            try:
                self._measure(key, *self._arrays(name, by_id.get(name)), name)
            except Exception as error:
                print(f"{name}: not measured by this process: {error!r}", file=sys.stderr)
        self.evaluation.wait()
        if self.evaluation.leads:
            plan.unlink()

    def figures(self, item: Item) -> list[dict[str, Any]]:
        """The figures of an embedding, from the cache if they are there."""
        name, kept = item.embedding.id, self._kept(item.key)
        if kept is None:
            kept = self._measure(item.key, item.train, item.test, name)
        elif name not in self._told:
            with self.stages.stage("measure", name, "cache") as record:
                seconds = f"{kept['seconds']:.1f} s"
                record.note = (
                    f"measured on {kept['backend']} in {seconds}, here or by another process"
                )
        figures: list[dict[str, Any]] = kept["figures"]
        return figures

    def confusion(self, item: Item, k: int) -> tuple[Any, Any]:
        """How often each class is taken for each, and what each test image is taken for."""
        return self.measure.confusion(self._points(item.train, item.test), k)

    def _arrays(self, name: str, item: Item | None) -> tuple[Any, Any]:
        """An embedding, from memory or from the evaluation folder."""
        if item is not None:
            return item.train, item.test
        if name.startswith("raw-"):
            return self.pixels.arrays
        arrays = read_arrays(self.evaluation.out / "embeddings" / f"{name}.npz")
        return self.backends.put(arrays["train"]), self.backends.put(arrays["test"])

    def _key(self, key: str) -> str:
        protocol = dataclasses.asdict(self.protocol) | described(METRICS)
        factors = [list(self.factors.items())] if self.factors else []
        return Cache.key("figures", key, protocol, self.pixels.where, *factors)

    def _kept(self, key: str) -> dict[str, Any] | None:
        """Figures from the cache, or of this evaluation, and what they cost."""
        found: dict[str, Any] | None = self.cache.record("figures", self._key(key), check_figures)
        return found

    def _measure(self, key: str, train: Any, test: Any, name: str) -> dict[str, Any]:
        """The figures of an embedding, kept in the cache."""
        points = self._points(train, test)
        with self.stages.stage("measure", name, self.backends.used) as record:
            figures = list(self.measure.figures(points))
            if not name.startswith("raw-"):
                host = self.backends.to_host(train), self.backends.to_host(test)
                figures += emptiness(*host, points.test_labels, self.seed)
                if self.factors:
                    values = values_of(self.factors, self.splits["test"].index)
                    figures += disentanglement(host[1], values, list(self.factors), self.seed)
        held = json.loads(json.dumps({"figures": figures, **cost(record)}))
        self.cache.keep_record("figures", self._key(key), held)
        self._told.add(name)
        return held

    def _points(self, train: Any, test: Any) -> Points:
        labels = [self.splits[name].labels for name in ("train", "test")]
        return Points(train, test, labels[0], labels[1], self.classes)


@dataclasses.dataclass
class _Figures:
    """What the cache keeps of an embedding's figures."""

    figures: list[dict[str, Any]]
    backend: str
    seconds: float
    peak_memory_bytes: int | None


def check_figures(record: Any) -> None:
    """Refuse a record of figures of another structure."""
    found = read_record(_Figures, record, "the figures")
    rows_of_figures(found.figures, {"dataset": "", "method": "", "dim": 1})


def rows_of_figures(figures: list[dict[str, Any]], fixed: dict[str, Any]) -> list[Row]:
    """Rows of figures that may come from a file."""
    return [read_record(Row, {**fixed, **figure}, "a figure") for figure in figures]
