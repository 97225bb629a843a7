"""The stages on the CPU: numpy, torch, scikit-learn and umap-learn."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.order import World
from evaluation.backends.pca import Pca, fit_pca
from evaluation.backends.search import (
    EXACT_BELOW,
    Graph,
    lay_out,
    neighbour_graph,
    search_part,
)
from evaluation.backends.voting import search_cpu
from evaluation.pixels import Pixels


@dataclass(frozen=True, kw_only=True)
class UmapSettings:
    """UMAP as the 2018 article ran it."""

    dim: int
    n_neighbors: int = 5
    min_dist: float = 0.1
    metric: str = "euclidean"
    init: str = "random"
    seed: int = 42


class Embedded(NamedTuple):
    """Rows of both splits in few dimensions, and how long fitting and transforming took."""

    train: Any
    test: Any
    fit_seconds: float
    transform_seconds: float


class CpuBackend:
    """Takes and returns numpy arrays, float32."""

    name = "cpu"
    device = "cpu"

    def put(self, array: Any) -> np.ndarray:
        """An array as this backend's; one that lies on a GPU is fetched."""
        if isinstance(array, Pixels):
            return array.whole()
        return np.asarray(array.get() if hasattr(array, "get") else array)

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that compute here."""
        from importlib.metadata import version

        names = ("numpy", "torch", "scikit-learn", "umap-learn", "pynndescent", "numba")
        return {name: version(name) for name in names}

    def standardise(self, train: Any, test: Any) -> tuple[np.ndarray, np.ndarray]:
        """Zero mean and unit variance by column, from the training rows."""
        train, test = self.put(train), self.put(test)
        mean, std = train.mean(0, dtype=np.float64), train.std(0, dtype=np.float64)
        std[std == 0] = 1
        return tuple(((part - mean) / std).astype(np.float32) for part in (train, test))

    def pca(self, train: Any, components: int) -> Pca:
        """Fit PCA on all rows, of an array or of `Pixels` that are read in parts."""
        rows = train if isinstance(train, Pixels) else Pixels(self.put(train))
        return fit_pca(rows, components)

    def graph(self, train: Any, test: Any, k: int, seed: int) -> Graph:
        """The neighbour graph that UMAP needs, in every dimension."""
        train, test = self.put(train), self.put(test)
        with _umap_compiled(k, len(train)):
            return neighbour_graph(train, test, k, seed=seed)

    def layout(self, train: np.ndarray, test: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Cells of images, which processes share out among them for `graph_part`."""
        return lay_out(train, test, seed=seed)

    def graph_part(
        self,
        train: Any,
        test: Any,
        k: int,
        layout: dict[str, np.ndarray],
        world: World,
        seed: int,
    ) -> dict[str, np.ndarray]:
        """This process's part of the neighbour graph, for `join_graph`."""
        train, test = self.put(train), self.put(test)
        with _umap_compiled(k, len(train)):
            return search_part(train, test, k, layout, world, seed=seed)

    def umap(
        self, train: Any, test: Any, graph: Graph, wanted: Sequence[UmapSettings]
    ) -> list[Embedded]:
        """Fit UMAP on the training rows and transform the test rows, in each dimension.

        With a seed umap-learn runs on one thread and repeats itself bit for bit; that is the
        choice here, and the dimensions are embedded in a thread each instead.
        """
        threads = min(len(wanted), available_cpus()) if _threads_can_share_umap() else 1
        with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
            warnings.simplefilter("ignore")
            return list(pool.map(fit_umap, wanted, [graph] * len(wanted)))

    def search(self, fit: Any, queries: Any, k: int) -> np.ndarray:
        """Indices of the nearest rows of `fit`, (q, k)."""
        return search_cpu(self.put(fit), self.put(queries), k)

    def trustworthiness(self, rows: Any, embedded: Any, k: int) -> float:
        """Share of neighbours in the embedding that are neighbours among the rows too."""
        from sklearn.manifold import trustworthiness

        return float(trustworthiness(self.put(rows), self.put(embedded), n_neighbors=k))


def available_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads_can_share_umap() -> bool:
    """Let go of Python's lock in umap's layout; whether the rest may run in threads too.

    The layout takes nearly all the time and umap-learn compiles it to hold the lock. Numba's
    last resort for parallel loops, the layer ``workqueue``, ends a process that enters two
    from different threads.
    """
    import numba
    from umap import layouts, umap_

    layout = "_nb_optimize_layout_euclidean_single_epoch"
    own = getattr(layouts, layout, None)
    if own is None:  # another umap-learn: the threads take turns
        return False
    if not own.targetoptions.get("nogil"):
        setattr(layouts, layout, numba.njit(own.py_func, fastmath=True, nogil=True))
    # The first parallel loop picks the layer. This one is needed anyway, with these very types.
    umap_.smooth_knn_dist(np.ones((2, 2), np.float32), 2.0, local_connectivity=1.0)
    return numba.threading_layer() != "workqueue"


@contextmanager
def _umap_compiled(k: int, images: int) -> Iterator[None]:
    """Have umap-learn imported and compiled while a large search goes on, which takes about as long.

    The search leaves Python's lock alone for most of its time.
    """
    if images <= EXACT_BELOW:
        yield
        return
    with warnings.catch_warnings(), ThreadPoolExecutor(1) as pool:
        warnings.simplefilter("ignore")
        compiled = pool.submit(_compile_umap, k)
        yield
        compiled.result()


def _compile_umap(k: int) -> None:
    """Have umap-learn compile what it needs for large sets, on a small one."""
    _threads_can_share_umap()
    rows = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    small = neighbour_graph(rows, rows[:5], k, seed=0)
    settings = UmapSettings(dim=2, n_neighbors=k)
    fit_umap(settings, small, n_epochs=30, force_approximation_algorithm=True)


def fit_umap(settings: UmapSettings, graph: Graph, **more: Any) -> Embedded:
    """umap-learn's embedding of the training rows and its transform of the test rows.

    The graph takes the place of umap's own searches, in fit and in transform. With it, and a
    random start, umap looks at no pixel: it is given row numbers in their place. ``more`` goes
    to ``umap.UMAP``.
    """
    import umap
    from pynndescent import NNDescent

    class Found(NNDescent):
        """Answers umap's search for the test rows with the graph's."""

        def __init__(self, index: np.ndarray, distance: np.ndarray) -> None:
            self.index, self.distance, self._angular_trees = index, distance, False

        def query(self, rows: Any, k: int = 10, **_: Any) -> tuple[np.ndarray, np.ndarray]:
            return self.index[:, :k].copy(), self.distance[:, :k].copy()

    assert settings.init == "random"
    k = settings.n_neighbors
    model = umap.UMAP(
        n_neighbors=k,
        n_components=settings.dim,
        min_dist=settings.min_dist,
        metric=settings.metric,
        init=settings.init,
        random_state=settings.seed,
        n_jobs=1,
        precomputed_knn=(
            np.ascontiguousarray(graph.train_index[:, :k]),
            np.ascontiguousarray(graph.train_distance[:, :k]),
            Found(graph.test_index, graph.test_distance),
        ),
        **more,
    )
    train = np.arange(len(graph.train_index), dtype=np.float32)[:, None]
    test = -1 - np.arange(len(graph.test_index), dtype=np.float32)[:, None]
    return timed_fit(model, train, test, lambda rows: rows.astype(np.float32))


def timed_fit(
    model: Any, train: Any, test: Any, after: Callable[[Any], Any] = lambda rows: rows
) -> Embedded:
    """Fit a model with scikit-learn's methods on the training rows; transform the test rows."""
    started = time.perf_counter()
    fitted = model.fit_transform(train)
    between = time.perf_counter()
    transformed = model.transform(test)
    ended = time.perf_counter()
    return Embedded(after(fitted), after(transformed), between - started, ended - between)
