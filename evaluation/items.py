"""An embedding on its way from a method to its figures."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from evaluation.results.records import Embedding

METHODS = ("raw", "pca", "umap", "vae", "vae_white", "vae_umap", "concat", "ensemble")
EMBEDDINGS = "vae_dist.embeddings"  # the entry points of more methods
TITLES = {
    "raw": "Pixels",
    "pca": "PCA",
    "umap": "UMAP",
    "vae": "VAE",
    "vae_white": "VAE, whitened",
    "vae_umap": "VAE, then UMAP",
    "concat": "PCA + UMAP + VAE",
    "ensemble": "VAE ensemble",
}


@dataclass
class Item:
    """An embedding with its arrays, and the hash of all that it follows from."""

    embedding: Embedding
    train: Any
    test: Any
    key: str


@dataclass
class Latents:
    """mu of a run's images, the hash of what they follow from, and what encoding them cost."""

    run: str
    train: np.ndarray
    test: np.ndarray
    key: str
    cost: dict[str, Any] = field(default_factory=dict)


def make_item(
    method: str,
    dim: int,
    train: Any,
    test: Any,
    key: str,
    parameters: dict[str, Any],
    run: str | None = None,
    **made: Any,
) -> Item:
    """An embedding; `made` is what it cost and where it was made, by the names of `Embedding`."""
    name = f"{method}-{dim}" + (f"-{run}" if run else "")
    title = f"{TITLES.get(method, method)} {dim}" + (f" ({run})" if run else "")
    made = {"backend": "cpu", "fit_seconds": made.get("seconds"), **made}
    embedding = Embedding(
        id=name, method=method, dim=dim, title=title, run=run, parameters=parameters, **made
    )
    return Item(embedding, train, test, key)


def file_name(text: str) -> str:
    """A run's name as a part of a file's name, short enough for any file system."""
    return re.sub(r"[^\w.+=@-]+", "_", text)[:80] or "run"
