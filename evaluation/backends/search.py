"""The neighbour graph of all images, found once on the CPU.

Images are put into cells around k-means centres, and each image is compared with all
images of the cells nearest to its own: one matrix product a cell. The distances are exact;
a neighbour is missed only where its cell was not looked at, and `recall` measures how often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

EXACT_BELOW = 8192  # up to this number of points everything is compared with everything


@dataclass(frozen=True)
class Graph:
    """Nearest neighbours among the training images: each one's own, and the test images'.

    Row i of ``train_index`` begins with i itself, at distance 0.
    """

    train_index: np.ndarray  # (n, k) int32
    train_distance: np.ndarray  # (n, k) float32
    test_index: np.ndarray
    test_distance: np.ndarray
    recall: float  # share of the true neighbours found, on a sample
    note: str


class Cells:
    """Points in cells around k-means centres.

    Parameters
    ----------
    points : Tensor
        (n, d) float32.
    cells : int
        1 compares everything with everything.
    probes : int
        Cells that are looked at for each query.
    seed : int
    """

    def __init__(self, points: Tensor, *, cells: int, probes: int, seed: int) -> None:
        self.centre = points.mean(0)
        self.points = points - self.centre
        self.norms = self.points.square().sum(1)
        generator = torch.Generator().manual_seed(seed)
        self.centroids = _kmeans(self.points, cells, generator)
        member = self._cell_of(self.points)
        order = member.argsort(stable=True)
        counts = torch.bincount(member, minlength=cells)
        self.members = order.split(counts.tolist())
        near = torch.cdist(self.centroids, self.centroids)
        self.near = near.topk(min(probes, cells), largest=False).indices.tolist()

    def _cell_of(self, points: Tensor) -> Tensor:
        half = self.centroids.square().sum(1) / 2
        return torch.cat(
            [(half - part @ self.centroids.T).argmin(1) for part in points.split(8192)]
        )

    def query(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Squared distances (q, k), ascending, and indices (q, k)."""
        queries = queries - self.centre
        distance = queries.new_full((len(queries), k), torch.inf)
        index = torch.zeros(len(queries), k, dtype=torch.long)
        cell_of = self._cell_of(queries)
        for cell, near in enumerate(self.near):
            mine = (cell_of == cell).nonzero()[:, 0]
            candidates = torch.cat([self.members[other] for other in near])
            if not len(mine):
                continue
            while len(candidates) < k:  # tiny cells: look further
                near = list(range(len(self.members)))
                candidates = torch.cat([self.members[other] for other in near])
            there, norms = self.points[candidates], self.norms[candidates]
            for part in mine.split(4096):
                here = queries[part]
                found = torch.addmm(norms[None], here, there.T, alpha=-2)
                value, column = found.topk(k, largest=False)
                distance[part] = value + here.square().sum(1)[:, None]
                index[part] = candidates[column]
        return distance.clamp(min=0), index


def neighbour_graph(
    train: np.ndarray, test: np.ndarray, k: int, *, seed: int, probes: int = 16
) -> Graph:
    """Nearest training images of every training and test image.

    Parameters
    ----------
    train, test : numpy.ndarray
        (n, d) and (m, d), float32.
    k : int
        Neighbours of each, a training image itself among its own.
    seed : int
    probes : int
        Cells looked at for each image, of one for about 250 images.
    """
    points, queries = torch.from_numpy(train), torch.from_numpy(test)
    exact = len(points) <= EXACT_BELOW
    cells = 1 if exact else len(points) // 250
    index = Cells(points, cells=cells, probes=1 if exact else probes, seed=seed)
    distance, own = index.query(points, k)
    test_distance, other = index.query(queries, k)
    recall = 1.0 if exact else _recall(index, own, seed)
    how = "all pairs" if exact else f"{cells} cells, {probes} looked at"
    return make_graph(
        distance.sqrt().numpy(),
        own.numpy(),
        test_distance.sqrt().numpy(),
        other.numpy(),
        recall,
        f"{how}; recall {recall:.4f} of {k} neighbours",
    )


def make_graph(
    distance: np.ndarray,
    index: np.ndarray,
    test_distance: np.ndarray,
    test_index: np.ndarray,
    recall: float,
    note: str,
) -> Graph:
    """A graph from what a search found, each training image first among its own neighbours."""
    own = np.arange(len(index))[:, None]
    is_own = index == own
    is_own[~is_own.any(axis=1), -1] = True  # duplicates pushed it out: it takes the last's place
    order = np.where(is_own, -1.0, distance).argsort(axis=1, kind="stable")
    distance, index = (np.take_along_axis(part, order, 1) for part in (distance, index))
    distance[:, 0], index[:, 0] = 0.0, own[:, 0]
    return Graph(
        index.astype(np.int32),
        distance.astype(np.float32),
        test_index.astype(np.int32),
        test_distance.astype(np.float32),
        recall,
        note,
    )


def _kmeans(points: Tensor, cells: int, generator: torch.Generator, rounds: int = 6) -> Tensor:
    order = torch.randperm(len(points), generator=generator)
    sample = points[order[: 64 * cells]]
    centroids = sample[:cells].clone()
    for _ in range(rounds if cells > 1 else 0):
        half = centroids.square().sum(1) / 2
        member = (half - sample @ centroids.T).argmin(1)
        sums = torch.zeros_like(centroids).index_add_(0, member, sample)
        count = torch.bincount(member, minlength=cells)[:, None]
        centroids = torch.where(count > 0, sums / count.clamp(min=1), centroids)
    return centroids


def _recall(cells: Cells, found: Tensor, seed: int, sample: int = 500) -> float:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(found), generator=generator)[:sample]
    k = found.shape[1]
    scores = cells.norms[None] - 2 * cells.points[rows] @ cells.points.T
    true = scores.topk(k, largest=False).indices
    hits = (true[:, :, None] == found[rows][:, None, :]).any(2)
    return float(hits.float().mean())
