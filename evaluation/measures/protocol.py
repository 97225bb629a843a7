"""What is measured on an embedding, and on which images.

``quick``
    The 2018 article's test figure (500 labels a class, uniform weights, every k) over repeated
    samples; its cross-validated grid with the 2018 article's weights (distance); trustworthiness.
``article2018``
    The same with both weightings.
``full``
    All of that repeated, and KNN on all labels with its log-loss and AUC, a linear probe,
    continuity, silhouette and k-means.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.sampling import rows_of

PROTOCOLS = ("quick", "article2018", "full")
LABELS_PER_CLASS = (50, 100, 500, 1000, 3000)
NEIGHBOURS = (1, 5, 10, 25, 50)
TEST_LABELS = 500
MAP_SAMPLE = 3000


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """A protocol, resolved.

    Attributes
    ----------
    name : str
    seed : int
        First of the seeds.
    repeats : int
        Samples of labels that the test figure is repeated over.
    cv_repeats : int
        Samples that the cross-validated grid is repeated over.
    cv_weights : tuple of str
    more : bool
        Whether the figures of ``full`` are measured.
    """

    name: str
    seed: int
    repeats: int
    cv_repeats: int = 1
    cv_weights: tuple[str, ...] = ("distance",)
    more: bool = False


def make_protocol(name: str, seed: int, repeats: int) -> Protocol:
    """The protocol of that name."""
    if name == "quick":
        return Protocol(name=name, seed=seed, repeats=repeats)
    weights = ("distance", "uniform")
    if name == "article2018":
        return Protocol(name=name, seed=seed, repeats=repeats, cv_weights=weights)
    return Protocol(
        name=name,
        seed=seed,
        repeats=repeats,
        cv_repeats=min(repeats, 3),
        cv_weights=weights,
        more=True,
    )


@dataclass
class Points:
    """An embedding to measure, on the device or the host, with the labels of its rows."""

    train: Any
    test: Any
    train_labels: np.ndarray
    test_labels: np.ndarray
    classes: int

    @property
    def labelled(self) -> bool:
        """Whether every row has a label."""
        return self.classes > 1 and bool(
            (self.train_labels >= 0).all() and (self.test_labels >= 0).all()
        )


def test_labels_of(labels: np.ndarray) -> int:
    """Labels a class of the test figure: 500, or what the rarest class has."""
    return min(TEST_LABELS, int(np.bincount(labels).min()))


def reference_rows(count: int, seed: int) -> np.ndarray:
    """The test images on which neighbourhoods are compared, and which the report shows."""
    return rows_of(count, MAP_SAMPLE, seed, "reference")
