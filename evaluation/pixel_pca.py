"""Principal components of the pixels, and pixels as UMAP and others take them."""

from __future__ import annotations

from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np

from evaluation.backends.choose import Backends
from evaluation.backends.pca import Pca
from evaluation.cache import Cache, Shape
from evaluation.pixels import SMALL_BYTES, Pixels
from evaluation.stages import Stages, cost_arrays, cost_of

UMAP_COMPONENTS = FITTED = 50
MOST_COMPONENTS = 1024
"""PCA of as many components as a run has latents is made up to here: a fit of thousands takes
minutes, and its axes gigabytes of large images."""


class PixelPca:
    """Fits PCA of the training pixels and projects both splits, a part at a time.

    Parameters
    ----------
    backends, stages, cache
        Where the work is done, recorded and kept.
    train, test : Pixels
    data_key : str
        Hash of the images.
    """

    def __init__(
        self,
        backends: Backends,
        stages: Stages,
        cache: Cache,
        train: Pixels,
        test: Pixels,
        data_key: str,
    ) -> None:
        self.backends, self.stages, self.cache = backends, stages, cache
        self.train, self.test, self.data_key = train, test, data_key
        self.where = [backends.used, backends.versions()]
        self._fitted: dict[int, tuple[Pca, dict[str, Any]]] = {}

    @property
    def rank(self) -> int:
        """The most principal components that the training pixels can have."""
        return min(len(self.train) - 1, self.train.shape[1])

    @cached_property
    def arrays(self) -> tuple[Any, Any]:
        """All pixels, where the backend computes."""
        return self.backends.put(self.train.whole()), self.backends.put(self.test.whole())

    def fit(self, components: int) -> tuple[Pca, dict[str, Any]]:
        """PCA of the pixels, and what it cost when it was made.

        At least `FITTED` components are fitted at once, as most of the work serves them all.
        """
        assert 0 < components <= self.rank
        fitted = max(components, min(FITTED, self.rank))
        if fitted not in self._fitted:
            self._fitted[fitted] = self._fit(fitted)
        pca, made = self._fitted[fitted]
        return pca.first(components), made

    def _fit(self, components: int) -> tuple[Pca, dict[str, Any]]:
        key = Cache.key("pca", self.data_key, components, self.where)
        pixels = self.train.shape[1]
        shapes: dict[str, Shape] = {
            "mean": (pixels,),
            "axes": (components, pixels),
            "variance_ratio": (components,),
        }
        kept = self.cache.arrays("pca", key, shapes)
        with self.stages.stage("pca", None, "cache", f"{components} components") as record:
            if kept is None:
                rows = self.arrays[0] if self.train.small else self.train
                pca, record.backend, note = self.backends.run("pca", rows, components)
                record.note = "; ".join(filter(None, [record.note, pca.solver, note]))
            else:
                pca = Pca(
                    self.backends.put(kept["mean"]),
                    self.backends.put(kept["axes"]),
                    kept["variance_ratio"],
                    str(kept["solver"]),
                )
        if kept is None:
            kept = asdict(self.backends.to_host(pca)) | cost_arrays(record)
            kept["solver"] = np.array(pca.solver)
            self.cache.keep_arrays("pca", key, kept)
        return pca, cost_of(kept)

    def project(self, pca: Pca, components: int) -> tuple[Any, Any]:
        """Training and test images along the first axes."""
        if self.train.small:
            train, test = (project(self.backends, pca, part, components) for part in self.arrays)
            return train, test
        host = self.backends.to_host(pca)
        found = []
        for pixels in (self.train, self.test):
            along = np.empty((len(pixels), components), np.float32)
            for rows, part in pixels:
                along[rows] = host.transform(part, components)
            found.append(self.backends.put(along))
        return found[0], found[1]

    def for_umap(self) -> tuple[Any, Any, str, str]:
        """What UMAP is fitted on: arrays, the hash of what they follow from, and their name.

        The pixels, or where they would take more than 256 MB their first 50 components.
        """
        if self.train.small:
            return *self.arrays, self.data_key, "pixels"
        components = min(UMAP_COMPONENTS, self.rank)
        pca, _ = self.fit(components)
        share = float(pca.variance_ratio.sum())
        name = (
            f"first {components} principal components of the pixels ({share:.3f} of the variance)"
        )
        self.stages.tell(
            f"umap: of the {name}, as the pixels take more than {SMALL_BYTES >> 20} MB"
        )
        key = Cache.key("pca", self.data_key, components, self.where)
        return *self.project(pca, components), key, name


def project(backends: Backends, pca: Pca, rows: Any, components: int) -> Any:
    """Rows along the first axes, where the axes lie."""
    on_host = isinstance(pca.axes, np.ndarray)
    rows = backends.to_host(rows) if on_host else backends.put(rows)
    return pca.transform(rows, components)
