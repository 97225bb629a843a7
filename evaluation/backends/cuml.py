"""The stages on a GPU: cuML and CuPy. Arrays stay on the device between stages."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from data_pipeline.order import World
from evaluation.backends.cpu import Embedded, UmapSettings, timed_fit
from evaluation.backends.pca import Pca
from evaluation.backends.search import Graph, cells_of, make_graph
from evaluation.pixels import Pixels

AT_ONCE = 1 << 27
"""Numbers that are held at once where distances are measured again: half a GB."""


class CumlBackend:
    """Takes numpy or CuPy arrays and returns CuPy arrays, float32.

    Making one imports cuML; that says nothing of whether it works, see `probe`.
    """

    name = "cuml"
    device = "cuda"

    def __init__(self, load: Callable[[str], Any] = importlib.import_module) -> None:
        self.cupy, self.cuml = load("cupy"), load("cuml")
        self._pca = load("cuml.decomposition").PCA
        self._umap = load("cuml.manifold").UMAP
        self._trustworthiness = load("cuml.metrics").trustworthiness
        self._nearest = load("cuml.neighbors").NearestNeighbors
        self._scaler = load("cuml.preprocessing").StandardScaler

    def probe(self) -> str:
        """Run something small on the device; its name. Raises what cuML raises without one."""
        rows = self.put(np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32))
        self.pca(rows, 2)
        self.search(rows, rows, 3)
        properties = self.cupy.cuda.runtime.getDeviceProperties(self.cupy.cuda.Device().id)
        name = properties["name"]
        return name.decode() if isinstance(name, bytes) else str(name)

    def versions(self) -> dict[str, str]:
        """Versions of the libraries that compute here."""
        return {"cuml": self.cuml.__version__, "cupy": self.cupy.__version__}

    def put(self, array: Any) -> Any:
        """An array on the device, float32."""
        if isinstance(array, Pixels):
            if not array.small:
                raise MemoryError("pixels that are read in parts stay on the CPU")
            array = array.whole()
        return self.cupy.asarray(array, dtype=self.cupy.float32)

    def standardise(self, train: Any, test: Any) -> tuple[Any, Any]:
        """Zero mean and unit variance by column, from the training rows."""
        scaler = self._scaler()
        return scaler.fit_transform(self.put(train)), scaler.transform(self.put(test))

    def pca(self, train: Any, components: int) -> Pca:
        """Fit PCA on all rows; the axes' signs are chosen as on the CPU."""
        model = self._pca(n_components=components, svd_solver="full", output_type="cupy")
        model.fit(self.put(train))
        axes = model.components_
        largest = axes[self.cupy.arange(len(axes)), self.cupy.abs(axes).argmax(axis=1)]
        axes = axes * self.cupy.sign(largest)[:, None]
        ratio = self.cupy.asnumpy(model.explained_variance_ratio_).astype(np.float64)
        return Pca(model.mean_.reshape(-1), axes, ratio, "cuML, full")

    def graph(self, train: Any, test: Any, k: int, seed: int) -> Graph:
        """The neighbour graph that UMAP needs: all pairs, exact, whatever the seed.

        It is small and goes to the host, where cuML's UMAP is content to find it.
        """
        rows = self.put(train)
        distance, index = self._query(rows, rows, k)
        test_distance, test_index = self._query(rows, self.put(test), k)
        return make_graph(distance, index, test_distance, test_index, 1.0, "all pairs")

    def graph_part(
        self,
        train: Any,
        test: Any,
        k: int,
        layout: dict[str, np.ndarray],
        world: World,
        seed: int,
    ) -> dict[str, np.ndarray]:
        """The same of the images in this process's cells, whose neighbours lie in any cell."""
        rows, found = self.put(train), dict[str, np.ndarray]()
        for split, images in (("train", rows), ("test", self.put(test))):
            own = np.flatnonzero(np.isin(layout[f"{split}_cell"], cells_of(layout, world)))
            if len(own):
                distance, index = self._query(rows, images[self.cupy.asarray(own)], k)
                found |= {f"{split}/rows": own, f"{split}/index": index}
                found[f"{split}/distance"] = distance
        return found

    def umap(
        self, train: Any, test: Any, graph: Graph, wanted: Sequence[UmapSettings]
    ) -> list[Embedded]:
        """Fit UMAP on the training rows and transform the test rows, in each dimension.

        The graph goes in with exactly k neighbours, which every version takes, and keeps
        ``build_algo="auto"`` from choosing nn-descent, which never repeats itself.
        """
        train, test = self.put(train), self.put(test)
        found = []
        for settings in wanted:
            k = settings.n_neighbors
            graph_of_k = tuple(
                np.ascontiguousarray(part[:, :k])
                for part in (graph.train_index.astype(np.int64), graph.train_distance)
            )
            model = self._umap(
                n_neighbors=k,
                n_components=settings.dim,
                min_dist=settings.min_dist,
                metric=settings.metric,
                init=settings.init,
                random_state=settings.seed,
                precomputed_knn=graph_of_k,
                output_type="cupy",
            )
            found.append(timed_fit(model, train, test))
        return found

    def search(self, fit: Any, queries: Any, k: int) -> np.ndarray:
        """Indices of the nearest rows of `fit`, (q, k), on the host."""
        return self._query(self.put(fit), self.put(queries), k)[1]

    def trustworthiness(self, rows: Any, embedded: Any, k: int) -> float:
        """Share of neighbours in the embedding that are neighbours among the rows too."""
        found = self._trustworthiness(self.put(rows), self.put(embedded), n_neighbors=k)
        return float(found)

    def _query(self, fit: Any, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Distances and indices of the nearest rows of `fit`, (q, k), on the host.

        cuML computes distances as norms less a product, which blurs those that are small beside
        the norms, and their order: they are measured again here. Its own second pass
        (``two_pass_precision``) takes the queries for the rows that were fitted (cuML 26.10).
        """
        model = self._nearest(
            n_neighbors=k, algorithm="brute", metric="euclidean", output_type="cupy"
        )
        _, nearest = model.fit(fit).kneighbors(queries, k)
        found = []
        for start in range(0, len(queries), step := max(1, AT_ONCE // (k * fit.shape[1]))):
            index, rows = (part[start : start + step] for part in (nearest, queries))
            apart = fit[index] - rows[:, None]
            distance = self.cupy.sqrt((apart * apart).sum(axis=2))
            order = distance.argsort(axis=1)
            found.append(
                [
                    self.cupy.asnumpy(self.cupy.take_along_axis(part, order, 1))
                    for part in (distance, index)
                ]
            )
        distances, indices = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return distances, indices.astype(np.int64)
