"""Small data folders for tests."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.folder import DataFolder, open_data
from data_pipeline.write.config import PrepareConfig
from data_pipeline.write.folder import write_folder


@dataclass
class ArraySource:
    """A source that is held in memory."""

    splits: dict[str, Arrays]
    classes: list[str]
    name: str = "arrays"
    provenance: dict[str, Any] = field(default_factory=dict)


def drawn(train: int = 100, test: int = 20, shape=(1, 5, 4), classes: int = 3) -> ArraySource:
    """Random images; the first bytes of an image spell its index, so that any swap shows."""
    rng = np.random.default_rng(0)
    splits = {}
    for number, (name, count) in enumerate({"train": train, "test": test}.items()):
        images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        index = np.arange(count)
        flat = images.reshape(count, -1)
        flat[:, 0], flat[:, 1], flat[:, 2] = index % 251, index // 251 % 251, number
        labels = rng.integers(0, classes, count)
        splits[name] = Arrays(images, labels, index)
    return ArraySource(splits, [f"class {c}" for c in range(classes)])


@cache
def digits() -> ArraySource:
    """scikit-learn's digits, 8x8; every sixth image is test."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = (bunch.images * 15.9375).astype(np.uint8)[:, None]
    labels = bunch.target.astype(np.int64)
    is_test = np.arange(len(labels)) % 6 == 0
    splits = {
        name: Arrays(images[where], labels[where], np.arange(int(where.sum())))
        for name, where in {"train": ~is_test, "test": is_test}.items()
    }
    return ArraySource(splits, [str(digit) for digit in range(10)], "digits")


def written(out: Path, source: ArraySource | None = None, **settings: Any) -> DataFolder:
    """Write a source as a data folder and open it."""
    write_folder(source or drawn(), out, PrepareConfig(**{"writers": 1, **settings}))
    return open_data(str(out))
