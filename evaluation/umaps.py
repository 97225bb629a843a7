"""UMAP of pixels or latents, from the cache or fitted by one graph for all dimensions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from evaluation.backends.choose import Backends
from evaluation.backends.cpu import UmapSettings
from evaluation.cache import Cache
from evaluation.items import Item, make_item
from evaluation.stages import Stages, cost_arrays, cost_of
from evaluation.team import Team

GRAPH_NEIGHBOURS = 5

# How UMAP's layout runs, by backend, as a figure's record says it.
THREADS = {
    "cpu": "one, so that the seed decides",
    "cuml": "of the GPU; with a seed cuML gives up some of its parallelism to repeat itself",
}


class Umaps:
    """Makes UMAP's embeddings.

    Parameters
    ----------
    backends, stages, cache, team
        Where the work is done, recorded, kept and shared.
    seed : int
    where : list
        The backend and its versions, for the cache's keys.
    """

    def __init__(
        self,
        backends: Backends,
        stages: Stages,
        cache: Cache,
        team: Team,
        seed: int,
        where: list[Any],
    ) -> None:
        self.backends, self.stages, self.cache, self.team = backends, stages, cache, team
        self.seed, self.where = seed, where

    def embeddings(
        self,
        method: str,
        train: Any,
        test: Any,
        source: str,
        dims: tuple[int, ...],
        run: str | None,
        of: str,
    ) -> Iterator[Item]:
        """UMAP of rows in several dimensions, by one graph of neighbours.

        Parameters
        ----------
        method : str
            What made the rows it is of: ``umap`` or ``vae_umap``.
        train, test : array
            Rows, where the backend computes.
        source : str
            Hash of what they follow from.
        dims : tuple of int
        run : str or None
            The run whose latents they are.
        of : str
            What they are, for the record.
        """
        k = min(GRAPH_NEIGHBOURS, len(train) - 1)
        wanted = [UmapSettings(dim=dim, n_neighbors=k, seed=self.seed) for dim in dims]
        keys = [Cache.key("umap", source, asdict(one), self.where) for one in wanted]
        counts = {"train": len(train), "test": len(test)}
        kept = [
            self.cache.arrays("umap", key, {name: (n, one.dim) for name, n in counts.items()})
            for one, key in zip(wanted, keys, strict=True)
        ]
        missing = [one for one, found in zip(wanted, kept, strict=True) if found is None]
        if missing:
            name = f"{method}-{run}" if run else method
            with self.stages.stage("neighbour graph", name) as search:
                arguments = (train, test, k, self.seed)
                graph, search.backend, note = self.team.graph(*arguments)
                search.note = "; ".join(filter(None, [graph.note, note]))
            with self.stages.stage("umap", name) as record:
                record.note = "dimensions " + ", ".join(str(one.dim) for one in missing)
                found, record.backend, note = self.team.umap(train, test, graph, missing)
                record.note = "; ".join(filter(None, [record.note, note]))
            by_dim = {one.dim: made for one, made in zip(missing, found, strict=True)}
            graph_note = graph.note
        for one, key, arrays in zip(wanted, keys, kept, strict=True):
            if arrays is None:
                own, other, fitting, transforming = by_dim[one.dim]
                arrays = {"train": self.backends.to_host(own), "test": self.backends.to_host(other)}
                arrays |= {"graph": np.array(graph_note), **cost_arrays(record)}
                # The search for neighbours is part of fitting, in each dimension.
                arrays["fit_seconds"] = np.array(search.seconds + fitting)
                arrays["transform_seconds"] = np.array(transforming)
                self.cache.keep_arrays("umap", key, arrays)
            else:
                own, other = self.backends.put(arrays["train"]), self.backends.put(arrays["test"])
            made = cost_of(arrays)
            parameters = {
                **asdict(one),
                "of": of,
                "graph": str(arrays["graph"]),
                "fitted_on": "train",
                "test": "transform",
                "threads": THREADS.get(made["backend"], "by process"),
            }
            yield make_item(method, one.dim, own, other, key, parameters, run, **made)
