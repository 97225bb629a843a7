"""What is measured on an embedding, and on which images.

``quick``
    The 2018 article's test figure (500 labels a class, uniform weights, every k) over repeated
    samples; its cross-validated grid with the 2018 article's weights (distance); trustworthiness.
``article2018``
    The same with both weightings.
``all_labels``
    ``quick``, and KNN on all labels with its log-loss and AUC.
``full``
    All of that repeated, and a linear probe, continuity, silhouette and k-means.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from evaluation.backends.choose import Backends
from evaluation.sampling import rarest, rows_of

PROTOCOLS = ("quick", "article2018", "all_labels", "full")
LABELS_PER_CLASS = (50, 100, 500, 1000, 3000)
NEIGHBOURS = (1, 5, 10, 25, 50)
TEST_LABELS = 500
MAP_SAMPLE = 3000
REFERENCE_BYTES = 256 << 20


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

    @property
    def all_labels(self) -> bool:
        """Whether KNN is fitted on all labels too."""
        return self.more or self.name == "all_labels"


def make_protocol(name: str, seed: int, repeats: int) -> Protocol:
    """The protocol of that name."""
    if name in ("quick", "all_labels"):
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
    """An embedding to measure, on the device or the host, with the labels of its rows.

    A label below 0 is no class.
    """

    train: Any
    test: Any
    train_labels: np.ndarray
    test_labels: np.ndarray
    classes: int

    @cached_property
    def known(self) -> Known:
        """The labels that can be used."""
        return known_labels(self.train_labels, self.test_labels)


@dataclass(frozen=True, kw_only=True)
class Known:
    """Labels of the classes that have labelled training images.

    Attributes
    ----------
    codes : numpy.ndarray
        (c,), int64: these classes, ascending.
    train_rows, test_rows : numpy.ndarray
        Rows with such a label.
    train, test : numpy.ndarray
        Labels of these rows as places in `codes`, 0 to c - 1.
    note : str or None
        Which images were not used.
    missing : str or None
        Why nothing can be measured by these labels.
    """

    codes: np.ndarray
    train_rows: np.ndarray
    test_rows: np.ndarray
    train: np.ndarray
    test: np.ndarray
    note: str | None
    missing: str | None

    @property
    def classes(self) -> int:
        """Classes with labelled training images."""
        return len(self.codes)


def known_labels(train: np.ndarray, test: np.ndarray) -> Known:
    """Find the labels that can be used: a class without training images cannot be predicted."""
    train_rows = np.flatnonzero(train >= 0)
    codes, own = np.unique(train[train_rows], return_inverse=True)
    test_rows = np.flatnonzero(np.isin(test, codes))
    unlabelled = len(train) - len(train_rows), int((test < 0).sum())
    strange = np.unique(test[(test >= 0) & ~np.isin(test, codes)])
    notes = []
    if any(unlabelled):
        notes.append(f"{unlabelled[0]} training and {unlabelled[1]} test images without a label")
    if len(strange):
        count = int(np.isin(test, strange).sum())
        numbers = ", ".join(map(str, strange[:5])) + (", ..." if len(strange) > 5 else "")
        notes.append(f"{count} test images of classes without training images ({numbers})")
    missing = None
    if not len(train_rows):
        missing = "no training image has a label"
    elif len(codes) < 2:
        missing = "all labelled training images are of one class"
    elif not len(test_rows):
        missing = "no test image has a label that training images have"
    return Known(
        codes=codes,
        train_rows=train_rows,
        test_rows=test_rows,
        train=own.astype(np.int64),
        test=np.searchsorted(codes, test[test_rows]),
        note="not used: " + "; ".join(notes) if notes else None,
        missing=missing,
    )


def with_labels(backends: Backends, points: Points) -> tuple[Any, Any]:
    """Training and test rows with a label that can be used."""
    known = points.known
    return tuple(
        part if len(rows) == len(part) else backends.take(part, rows)
        for part, rows in (
            (points.train, known.train_rows),
            (points.test, known.test_rows),
        )
    )


def repeats_of(wanted: int, per_class: int, labels: np.ndarray) -> range:
    """Samples to repeat a figure over: one where a sample is the whole set, so all are the same."""
    return range(1 if per_class * len(np.unique(labels)) >= len(labels) else wanted)


def test_labels_of(labels: np.ndarray) -> int:
    """Labels a class of the test figure: 500, or what the rarest class has."""
    return min(TEST_LABELS, rarest(labels))


def shown_rows(count: int, seed: int) -> np.ndarray:
    """The test images that the report shows."""
    return rows_of(count, MAP_SAMPLE, seed, "reference")


def reference_rows(count: int, pixels: int, seed: int) -> np.ndarray:
    """The test images on which neighbourhoods are compared: those shown, fewer if they are large.

    As float32 they take at most `REFERENCE_BYTES`.
    """
    most = max(100, REFERENCE_BYTES // (4 * pixels))
    return rows_of(count, min(MAP_SAMPLE, most), seed, "reference")
