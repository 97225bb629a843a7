"""UMAP of Fashion-MNIST images by TorchDR on the CPU, beside umap-learn as the evaluation runs it.

pip install --no-deps torchdr==0.5
OMP_NUM_THREADS=1 python -m benchmarks.torchdr_umap data/fmnist 10000 torchdr   # or: here
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from data_pipeline.folder import open_data
from evaluation.backends.cpu import CpuBackend, UmapSettings
from evaluation.cache import Cache
from evaluation.images import open_splits
from evaluation.measures.protocol import shown_rows
from evaluation.pixels import Pixels
from evaluation.sampling import rows_of

SEED = 42


def main() -> int:
    """Print seconds of fit and transform, KNN accuracy and trustworthiness on the test images."""
    from sklearn.manifold import trustworthiness
    from sklearn.neighbors import KNeighborsClassifier

    if len(sys.argv) != 4 or sys.argv[3] not in ("here", "torchdr"):
        print(__doc__, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        splits = open_splits(open_data(sys.argv[1]), Cache(Path(folder)))
    rows = rows_of(len(splits["train"]), int(sys.argv[2]), SEED, "bench")
    train, test = Pixels(splits["train"]).take(rows), Pixels(splits["test"]).whole()
    started = time.perf_counter()
    own, other = (by_torchdr if sys.argv[3] == "torchdr" else by_umap_learn)(train, test)
    seconds = time.perf_counter() - started
    knn = KNeighborsClassifier(10).fit(own, splits["train"].labels[rows])
    shown = shown_rows(len(test), SEED)
    print(
        f"{sys.argv[3]}: {seconds:.1f} s, KNN {knn.score(other, splits['test'].labels):.4f}, "
        f"trustworthiness {trustworthiness(test[shown], other[shown], n_neighbors=10):.4f}"
    )
    return 0


def by_umap_learn(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As the evaluation does, umap-learn's compilation included."""
    backend = CpuBackend()
    graph = backend.graph(train, test, 5, SEED)
    found = backend.umap(train, test, graph, [UmapSettings(dim=2, seed=SEED)])[0]
    return found.train, found.test


def by_torchdr(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """As many rounds as umap-learn takes for 10,000 images; TorchDR begins from PCA."""
    import torchdr

    model = torchdr.UMAP(
        n_neighbors=5, min_dist=0.1, max_iter=500, device="cpu", backend=None, random_state=SEED
    )
    rows = torch.from_numpy(train)
    fitted = model.fit_transform(rows)
    found = model.transform(torch.from_numpy(test), X_train=rows)
    return fitted.detach().numpy(), found.detach().numpy()


if __name__ == "__main__":
    raise SystemExit(main())
