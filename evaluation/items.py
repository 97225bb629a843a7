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


def file_name(text: str) -> str:
    """A run's name as a part of a file's name, short enough for any file system."""
    return re.sub(r"[^\w.+=@-]+", "_", text)[:80] or "run"
