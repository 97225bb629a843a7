"""The embeddings that are compared, each fitted on the training images alone.

``raw``        the pixels
``pca``        principal components of the pixels
``umap``       UMAP of the pixels; the test images by transform
``vae``        a run's mu
``vae_white``  mu turned and scaled to unit covariance
``vae_umap``   UMAP of a run's mu
``concat``     PCA, UMAP and mu side by side, each standardised
``ensemble``   the standardised mu of all runs side by side
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.plugins import described, load_installed
from evaluation.backends.choose import Backends
from evaluation.cache import Cache
from evaluation.items import EMBEDDINGS, METHODS, Item, Latents, make_item
from evaluation.pixel_pca import PixelPca, project
from evaluation.pixels import Pixels
from evaluation.results.records import NotMade
from evaluation.stages import Stages, cost
from evaluation.team import Team
from evaluation.umaps import Umaps

MOST_RAW_BYTES = 10**9  # float32 training pixels up to this size are compared as they are
FEWEST_FOR_UMAP = 4  # training images: fewer have no neighbourhoods


class Methods:
    """Makes the embeddings, shared parts once.

    Parameters
    ----------
    backends, stages, cache
        Where the work is done, recorded and kept.
    train, test : Pixels
    data_key : str
        Hash of the images.
    dims : sequence of int
    seed : int
    team : Team, optional
        The processes that share the work; this one alone if not given.
    """

    def __init__(
        self,
        backends: Backends,
        stages: Stages,
        cache: Cache,
        train: Pixels,
        test: Pixels,
        *,
        data_key: str,
        dims: tuple[int, ...],
        seed: int,
        team: Team | None = None,
    ) -> None:
        self.backends, self.stages, self.cache = backends, stages, cache
        self.team = team or Team(backends)
        self.pixels = PixelPca(backends, stages, cache, train, test, data_key)
        self.data_key, self.dims, self.seed = data_key, dims, seed
        self.where = self.pixels.where
        self._umaps = Umaps(backends, stages, cache, self.team, seed, self.where).embeddings
        self.not_made: list[NotMade] = []

    def embeddings(self, methods: tuple[str, ...], runs: list[Latents]) -> Iterator[Item]:
        """The embeddings of the methods asked for, in the order in which a report shows them."""
        made: dict[str, Item] = {}
        if "raw" in methods:
            yield from self._raw_items()
        for method in ("pca", "umap"):
            if method in methods or "concat" in methods:
                found = self._pca_items() if method == "pca" else self._umap_items()
                for item in found:
                    made[f"{method}-{item.embedding.dim}"] = item
                    if method in methods:
                        yield item
        for method in methods:
            if method not in METHODS:
                yield from self._installed_items(method)
        for latents in runs:
            train, test = self.backends.put(latents.train), self.backends.put(latents.test)
            parameters = {"latents": "mu"}
            if "seconds" in latents.cost:  # the training is in the record of the run
                latents.cost |= {"fit_seconds": 0.0, "transform_seconds": latents.cost["seconds"]}
            plain = make_item(
                "vae",
                train.shape[1],
                train,
                test,
                latents.key,
                parameters,
                latents.run,
                **latents.cost,
            )
            if "vae" in methods:
                yield plain
            if "vae_white" in methods:
                yield self._white(plain)
            if "vae_umap" in methods:
                yield from self._umap_of(plain)
            if "concat" in methods:
                parts = [*self._largest(made), plain]
                yield self._side_by_side("concat", parts, latents.run)
        if not runs:
            for method in ("vae", "vae_white", "vae_umap", "concat", "ensemble"):
                if method in methods:
                    self.leave_out(method, "no run was encoded; give --runs")
        if "ensemble" in methods and len(runs) == 1:
            self.leave_out("ensemble", "one run alone; give --runs two or more")
        if "ensemble" in methods and len(runs) > 1:
            items = [
                make_item("vae", one.train.shape[1], one.train, one.test, one.key, {}, one.run)
                for one in runs
            ]
            yield self._side_by_side("ensemble", items, None)

    def leave_out(self, embedding: str, reason: str) -> None:
        """Take note, and say, that an embedding is not made."""
        self.not_made.append(NotMade(embedding=embedding, reason=reason))
        self.stages.tell(f"{embedding}: not made: {reason}")

    def flat_map(
        self, item: Item, rows: np.ndarray, train_rows: np.ndarray
    ) -> tuple[str, Any, Any]:
        """Two dimensions to draw: how they were made, then test and train rows of them."""
        if item.embedding.dim == 2:
            how, test, train = "itself", item.test, item.train
        else:
            components = min(2, item.embedding.dim, len(self.pixels.train) - 1)
            how = "pca"
            if item.embedding.method == "raw":
                train, test = self.pixels.project(self.pixels.fit(components)[0], components)
            else:
                pca = self.backends.run("pca", item.train, components)[0]
                train, test = (
                    project(self.backends, pca, part, components)
                    for part in (item.train, item.test)
                )
        host = [self.backends.to_host(part).astype(np.float32) for part in (test, train)]
        host = [np.pad(part, ((0, 0), (0, 2 - part.shape[1]))) for part in host]
        return how, host[0][rows], host[1][train_rows]

    def _pca_items(self) -> Iterator[Item]:
        (images, pixels), rank = self.pixels.train.shape, self.pixels.rank
        dims = [dim for dim in self.dims if dim <= rank]
        for dim in self.dims[len(dims) :]:
            reason = f"{images} training images of {pixels} pixels have {rank} components"
            self.leave_out(f"pca-{dim}", reason)
        if not dims:
            return
        pca, made = self.pixels.fit(max(dims))
        made["fit_seconds"], started = made["seconds"], time.perf_counter()
        train, test = self.pixels.project(pca, max(dims))
        made["transform_seconds"] = time.perf_counter() - started
        for dim in dims:
            share = float(pca.variance_ratio[:dim].sum())
            parameters = {"solver": pca.solver, "fitted_on": "train", "explained_variance": share}
            key = Cache.key("pca", self.data_key, dim, self.where)
            yield make_item("pca", dim, train[:, :dim], test[:, :dim], key, parameters, **made)

    def _raw_items(self) -> Iterator[Item]:
        train = self.pixels.train
        if train.nbytes > MOST_RAW_BYTES:
            reason = (
                f"{len(train)} x {train.shape[1]} pixels take {train.nbytes / 1e9:.1f} GB,"
                f" more than {MOST_RAW_BYTES / 1e9:.0f} GB"
            )
            self.leave_out(f"raw-{train.shape[1]}", reason)
            return
        yield make_item("raw", train.shape[1], *self.pixels.arrays, self.data_key, {})

    def _installed_items(self, method: str) -> Iterator[Item]:
        """What a method of an installed package makes of the pixels, of numpy arrays on the CPU."""
        fit = load_installed(EMBEDDINGS, method)
        pixels = [self.backends.to_host(part) for part in self.pixels.arrays]
        for dim in self.dims:
            with self.stages.stage("fit", f"{method}-{dim}", "cpu") as record:
                transform = fit(pixels[0].copy(), dim, self.seed)
                made = [np.asarray(transform(part.copy()), np.float32) for part in pixels]
            for part, given in zip(made, pixels, strict=True):
                if part.shape != (len(given), dim) or not np.isfinite(part).all():
                    raise UserError(
                        f"--methods {method}: made an array of shape {part.shape} of {len(given)} "
                        f"images; it must be ({len(given)}, {dim}) and finite"
                    )
            key = Cache.key(method, *(hashlib.sha256(part.tobytes()).hexdigest() for part in made))
            parameters = {"by": described(EMBEDDINGS)[method], "fitted_on": "train"}
            train, test = map(self.backends.put, made)
            yield make_item(method, dim, train, test, key, parameters, **cost(record))

    def _umap_items(self) -> Iterator[Item]:
        images = len(self.pixels.train)
        if images < FEWEST_FOR_UMAP:
            for dim in self.dims:
                self.leave_out(f"umap-{dim}", f"{images} training images are too few")
            return
        train, test, key, name = self.pixels.for_umap()
        yield from self._umaps("umap", train, test, key, self.dims, None, name)

    def _umap_of(self, item: Item) -> Iterator[Item]:
        """UMAP of latents, in the dimensions below the latents' own."""
        dims = tuple(dim for dim in self.dims if dim < item.embedding.dim)
        run = item.embedding.run
        for dim in self.dims[len(dims) :]:
            reason = f"only below the {item.embedding.dim} dimensions of the latents"
            self.leave_out(f"vae_umap-{dim}-{run}", reason)
        yield from self._umaps("vae_umap", item.train, item.test, item.key, dims, run, "mu")

    def _white(self, item: Item) -> Item:
        key = Cache.key("white", item.key, self.where)
        dim = min(item.embedding.dim, len(item.train) - 1)  # a large grid's latents may be more
        with self.stages.stage("whiten", f"vae_white-{dim}-{item.embedding.run}") as record:
            pca, record.backend, record.note = self.backends.run("pca", item.train, dim)
            turned = [project(self.backends, pca, part, dim) for part in (item.train, item.test)]
            (train, test), record.backend, note = self.backends.run("standardise", *turned)
            record.note = "; ".join(filter(None, [record.note, note])) or None
        parameters = {"latents": "mu", "whitened": "principal axes, unit variance"}
        return make_item(
            "vae_white", dim, train, test, key, parameters, item.embedding.run, **cost(record)
        )

    def _largest(self, made: dict[str, Item]) -> list[Item]:
        """The largest PCA and the largest UMAP, where they could be made."""
        found = []
        for method in ("pca", "umap"):
            own = [item for item in made.values() if item.embedding.method == method]
            found += sorted(own, key=lambda item: item.embedding.dim)[-1:]
        return found

    def _side_by_side(self, method: str, parts: list[Item], run: str | None) -> Item:
        """Standardised parts, each scaled so that all weigh the same, beside each other."""
        key = Cache.key(method, [part.key for part in parts], self.where)
        trains, tests = [], []
        with self.stages.stage(method, run) as record:
            for part in parts:
                (train, test), record.backend, note = self.backends.run(
                    "standardise", part.train, part.test
                )
                record.note = note or record.note
                scale = np.float32(part.embedding.dim**-0.5)
                trains.append(train * scale)
                tests.append(test * scale)
            own, other = self.backends.beside(trains), self.backends.beside(tests)
        parameters = {"parts": [part.embedding.id for part in parts], "standardised": True}
        return make_item(method, own.shape[1], own, other, key, parameters, run, **cost(record))
