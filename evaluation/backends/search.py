"""The neighbour graph of all images, found once on the CPU.

Images are put into cells around k-means centres, and each image is compared with all
images of the cells nearest to its own: one matrix product a cell. The distances are exact;
a neighbour is missed only where its cell was not looked at, and `recall` measures how often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipeline.order import World

IMAGES_A_CELL = 250
RECALL = 500  # images that the share of true neighbours found is measured on
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


Arrays = dict[str, np.ndarray]


def lay_out(train: np.ndarray, test: np.ndarray, *, seed: int, probes: int = 16) -> Arrays:
    """Cells around k-means centres, and the cell of every image.

    Parameters
    ----------
    train, test : numpy.ndarray
        (n, d) and (m, d), float32.
    seed : int
    probes : int
        Cells looked at for each image, of one for about 250 images.

    Returns
    -------
    dict of str to numpy.ndarray, int64
        ``near`` (c, probes), the cells nearest to each cell, itself first; ``order`` (c,), cells by
        size, largest first; ``train_cell`` (n,) and ``test_cell`` (m,). Of up to `EXACT_BELOW` training images one cell.
    """
    points, queries = torch.from_numpy(train), torch.from_numpy(test)
    centre = points.mean(0)
    points = points - centre
    cells = 1 if len(points) <= EXACT_BELOW else len(points) // IMAGES_A_CELL
    centroids = _kmeans(points, cells, torch.Generator().manual_seed(seed))
    near = torch.cdist(centroids, centroids).topk(min(probes, cells), largest=False).indices
    own, other = _cell_of(points, centroids), _cell_of(queries - centre, centroids)
    size = torch.bincount(torch.cat([own, other]), minlength=cells)
    return {
        "near": near.numpy(),
        "order": size.argsort(descending=True, stable=True).numpy(),
        "train_cell": own.numpy(),
        "test_cell": other.numpy(),
    }


def cells_of(layout: Arrays, world: World) -> np.ndarray:
    """The cells that a process searches: about as many images as the others have."""
    return layout["order"][world.rank :: world.size]


def search_part(
    train: np.ndarray, test: np.ndarray, k: int, layout: Arrays, world: World, *, seed: int
) -> Arrays:
    """Nearest training images of the images in this process's cells.

    A cell is searched by the same matrix products on any number of processes, so that the same
    bits are found.

    Returns
    -------
    dict of str to numpy.ndarray
        ``SPLIT/rows`` (q,), ``SPLIT/index`` (q, k) and ``SPLIT/distance`` (q, k) of both splits;
        ``hits``, true neighbours found, and ``true``, how many there are, of a sample of its rows.
    """
    points, queries = torch.from_numpy(train), torch.from_numpy(test)
    centre, near = points.mean(0), layout["near"].tolist()
    points = points - centre
    norms = points.square().sum(1)
    own = torch.from_numpy(layout["train_cell"])
    counts = torch.bincount(own, minlength=len(near))
    members = own.argsort(stable=True).split(counts.tolist())
    found: dict[str, list[Tensor]] = {}
    cells = {
        "train": (points, own),
        "test": (queries - centre, torch.from_numpy(layout["test_cell"])),
    }
    for cell in cells_of(layout, world).tolist():
        candidates = torch.cat([members[other] for other in near[cell]])
        if len(candidates) < k:  # tiny cells: look further
            candidates = torch.cat(members)
        there, lengths = points[candidates], norms[candidates]
        for split, (images, cell_of) in cells.items():
            for rows in (cell_of == cell).nonzero()[:, 0].split(4096):
                here = images[rows]
                value, column = torch.addmm(lengths[None], here, there.T, alpha=-2).topk(
                    k, largest=False
                )
                square = (value + here.square().sum(1)[:, None]).clamp(min=0)
                for name, part in (
                    ("rows", rows), ("index", candidates[column]), ("distance", square.sqrt()),
                ):  # fmt: skip
                    found.setdefault(f"{split}/{name}", []).append(part)
    joined = {name: torch.cat(parts) for name, parts in found.items()}
    sample = torch.randperm(len(points), generator=torch.Generator().manual_seed(seed))[:RECALL]
    if "train/rows" in joined and len(near) > 1:
        place = torch.full((len(points),), -1)
        place[joined["train/rows"]] = torch.arange(len(joined["train/rows"]))
        sample = sample[place[sample] >= 0]
        scores = norms[None] - 2 * points[sample] @ points.T
        true = scores.topk(k, largest=False).indices
        seen = joined["train/index"][place[sample]]
        hits = (true[:, :, None] == seen[:, None, :]).any(2)
        joined |= {"hits": hits.sum(), "true": torch.tensor(hits.numel())}
    return {name: part.numpy() for name, part in joined.items()}


def join_graph(parts: Sequence[Arrays], layout: Arrays) -> Graph:
    """The graph that processes found in parts."""
    whole = {}
    for split in ("train", "test"):
        held = [part for part in parts if f"{split}/rows" in part]
        rows = np.concatenate([part[f"{split}/rows"] for part in held])
        assert np.array_equal(np.bincount(rows), np.ones(len(layout[f"{split}_cell"])))
        for name in ("index", "distance"):
            values = np.concatenate([part[f"{split}/{name}"] for part in held])
            whole[f"{split}/{name}"] = np.empty_like(values)
            whole[f"{split}/{name}"][rows] = values
    (cells, probes), k = layout["near"].shape, whole["train/index"].shape[1]
    # Without counts the search was exact.
    hits, true = (sum(int(part.get(name, 0)) for part in parts) for name in ("hits", "true"))
    recall = hits / true if true else 1.0
    how = "all pairs" if not true else f"{cells} cells, {probes} looked at"
    return make_graph(
        whole["train/distance"],
        whole["train/index"],
        whole["test/distance"],
        whole["test/index"],
        recall,
        f"{how}; recall {recall:.4f} of {k} neighbours",
    )


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
        As for `lay_out`.
    """
    layout = lay_out(train, test, seed=seed, probes=probes)
    return join_graph([search_part(train, test, k, layout, World(), seed=seed)], layout)


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


def _cell_of(points: Tensor, centroids: Tensor) -> Tensor:
    half = centroids.square().sum(1) / 2
    return torch.cat([(half - part @ centroids.T).argmin(1) for part in points.split(8192)])
