"""Pictures and maps for the report: ``artifacts.npz`` and ``curves.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from evaluation.backends.pca import Pca
from evaluation.encode import pictures
from evaluation.files import write_arrays, write_text
from evaluation.images import READ_BYTES, Images
from evaluation.results.records import RunInfo
from evaluation.sampling import rows_of
from evaluation.training import metrics_of, thinned
from vae_dist import metrics
from vae_dist.run.trained import Run

ORIGINALS = 20
TRAIN_SAMPLE = 10_000
LARGEST_SIDE = 64  # pixels a side of the sample's images
PART_BYTES = 8 << 20  # of stored test images that PCA restores at a time


class Artifacts:
    """Collects what ``artifacts.npz`` holds; its layout: `evaluation.results.records`.

    Parameters
    ----------
    splits : dict
        ``train`` and ``test``.
    sample : numpy.ndarray
        Test rows that are shown.
    seed : int
    """

    def __init__(self, splits: dict[str, Images], sample: np.ndarray, seed: int) -> None:
        test = splits["test"]
        self.test, self.sample, self.seed = test, sample, seed
        self.train_sample = rows_of(len(splits["train"]), TRAIN_SAMPLE, seed, "train map")
        self.originals = _two_of_each(test.labels)
        self.arrays: dict[str, np.ndarray] = {
            "sample_images": thumbnails(test, sample),
            "sample_labels": test.labels[sample],
            "sample_position": sample.astype(np.int64),
            "map_train_position": self.train_sample.astype(np.int64),
            "originals": test.values.to_bytes(test.take(self.originals)),
        }

    def add_run(self, info: RunInfo, run: Run, scale: np.ndarray) -> None:
        """Add a run's pictures."""
        found = pictures(run, self.test, self.originals, scale, seed=self.seed)
        self.arrays |= {f"{kind}/{info.name}": array for kind, array in found.items()}

    def add_pca(self, pca: Pca, components: int) -> dict[str, float]:
        """Add PCA's reconstructions; their figures over all test images.

        Nothing where PCA of that many components was added before.
        """
        name = f"reconstruction/pca-{components}"
        if name in self.arrays:
            return {}
        mean, axes = _numpy(pca.mean), _numpy(pca.axes)[:components]
        host = Pca(mean, axes, pca.variance_ratio[:components])

        def restored(images: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
            pixels = self.test.values.to_float32(images.reshape(len(images), -1))
            again = host.restore(host.transform(pixels, components)).clip(0, 1)
            return torch.from_numpy(again.reshape(images.shape)), torch.from_numpy(
                pixels.reshape(images.shape)
            )

        sums: dict[str, float] = {}
        for part in self.test.parts(PART_BYTES):
            again, images = restored(self.test.read(part)[1])
            for metric in ("ssim", "ssim11", "psnr", "mse"):
                total = float(getattr(metrics, metric)(again, images).double().sum())
                sums[metric] = sums.get(metric, 0.0) + total
        shown = restored(self.test.take(self.originals))[0].numpy()
        self.arrays[name] = (shown * 255).round().astype(np.uint8)
        return {metric: total / len(self.test) for metric, total in sums.items()}

    def add_map(self, embedding: str, shown: np.ndarray, train: np.ndarray) -> None:
        """Add an embedding in two dimensions: the sample, and training images."""
        self.arrays[f"map/{embedding}"] = shown
        self.arrays[f"map_train/{embedding}"] = train

    def add_confusion(self, embedding: str, matrix: np.ndarray, predicted: np.ndarray) -> None:
        """Add a confusion matrix and what was predicted of the sample."""
        self.arrays[f"confusion/{embedding}"] = matrix
        self.arrays[f"predicted/{embedding}"] = predicted.astype(np.int64)
        self.arrays[f"sample_predicted/{embedding}"] = predicted[self.sample].astype(np.int64)

    def write(self, out: Path, runs: list[RunInfo]) -> None:
        """Write both files."""
        write_arrays(out / "artifacts.npz", self.arrays)
        curves = {info.name: thinned(metrics_of(Path(info.path))) for info in runs}
        write_text(out / "curves.json", json.dumps(curves, indent=1) + "\n")


def thumbnails(images: Images, rows: np.ndarray) -> np.ndarray:
    """Images of at most `LARGEST_SIDE` pixels a side; larger ones are averaged down."""
    scale = min(1.0, LARGEST_SIDE / max(images.shape[1:]))
    size = [max(1, round(side * scale)) for side in images.shape[1:]]
    step = max(1, READ_BYTES // images.pixels)
    found = []
    for start in range(0, len(rows), step):
        part = images.values.to_bytes(images.take(rows[start : start + step]))
        if scale < 1:
            shrunk = F.interpolate(torch.from_numpy(part).float(), size, mode="area")
            part = shrunk.round().byte().numpy()
        found.append(part)
    return np.concatenate(found)


def _two_of_each(labels: np.ndarray) -> np.ndarray:
    """The first two rows of each class, up to 20 rows; of unlabelled images the first."""
    rows = [np.flatnonzero(labels == label)[:2] for label in np.unique(labels)[: ORIGINALS // 2]]
    found = np.concatenate(rows)
    others = np.setdiff1d(np.arange(min(len(labels), 4 * ORIGINALS)), found)
    return np.concatenate([found, others[: ORIGINALS - len(found)]])


def _numpy(array: Any) -> np.ndarray:
    return array.get() if hasattr(array, "get") else array
