"""Principal components of rows that may be larger than memory, on the CPU.

Three ways, by the shape of the rows; none builds a matrix of more than 6,000 x 6,000:

``covariance``  few columns: eigenvectors of the covariance, exact
``gram``        few rows: eigenvectors of the rows' inner products, exact
``randomized``  else: subspace iteration from a random start, until no variance asked for
                changes by more than `TOLERANCE` of itself
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from evaluation.pixels import Pixels

WIDEST = 2048  # columns up to which the covariance is taken
MOST_ROWS = 6000  # rows up to which their inner products are taken
HELD_BYTES = 1 << 30  # of centred rows that are held while their inner products are taken
TOLERANCE, MOST_PASSES = 1e-6, 40


@dataclass(frozen=True)
class Pca:
    """Principal axes of the training rows.

    Attributes
    ----------
    mean : numpy.ndarray
        (d,), float32.
    axes : numpy.ndarray
        (components, d), float32, orthonormal; the largest entry of each is positive.
    variance_ratio : numpy.ndarray
        (components,), float64.
    solver : str
        How they were found.
    """

    mean: Any
    axes: Any
    variance_ratio: np.ndarray
    solver: str = ""

    def transform(self, rows: Any, components: int) -> Any:
        """Coordinates (n, components) along the first axes."""
        return (rows - self.mean) @ self.axes[:components].T

    def first(self, components: int) -> Pca:
        """The first axes alone."""
        return replace(
            self, axes=self.axes[:components], variance_ratio=self.variance_ratio[:components]
        )

    def restore(self, coordinates: Any) -> Any:
        """Rows from their coordinates along the first axes."""
        return coordinates @ self.axes[: coordinates.shape[1]] + self.mean


def fit_pca(rows: Pixels, components: int) -> Pca:
    """Fit PCA on all rows; at most `HELD_BYTES` and a part of them are in memory at a time."""
    n, d = rows.shape
    mean = np.zeros(d)
    for _, part in rows:
        mean += part.sum(0, dtype=np.float64)
    mean /= n
    if d <= WIDEST:
        variance, axes, total = _by_covariance(rows, mean, components)
        solver = "covariance eigenvectors"
    elif n <= MOST_ROWS:
        variance, axes, total = _by_gram(rows, mean, components)
        solver = "eigenvectors of the rows' inner products"
    else:
        variance, axes, total, passes = _by_iteration(rows, mean, components)
        solver = f"randomized subspace iteration, {passes} passes"
    largest = axes[np.arange(len(axes)), np.abs(axes).argmax(1)]
    axes = axes * np.where(largest < 0, -1, 1)[:, None]
    ratio = variance.clip(min=0) / (total or 1.0)
    return Pca(mean.astype(np.float32), axes.astype(np.float32), ratio, solver)


def _by_covariance(
    rows: Pixels, mean: np.ndarray, components: int
) -> tuple[np.ndarray, np.ndarray, float]:
    covariance = np.zeros((len(mean), len(mean)))
    for _, part in rows:
        for start in range(0, len(part), 8192):
            centred = part[start : start + 8192] - mean
            covariance += centred.T @ centred
    total = float(np.trace(covariance))
    variance, vectors = _leading(covariance, components)
    return variance, vectors.T, total


def _by_gram(
    rows: Pixels, mean: np.ndarray, components: int
) -> tuple[np.ndarray, np.ndarray, float]:
    """As many parts as `HELD_BYTES` allows are held while the later ones are read once past them."""
    centre = mean.astype(np.float32)
    parts = rows.parts()
    gram = np.empty((len(rows), len(rows)))
    while parts:
        held: list[tuple[np.ndarray, np.ndarray]] = []
        room = HELD_BYTES
        for place, part in enumerate(parts):
            own, values = rows.read(part)
            left = values - centre
            if place == len(held) and (not held or left.nbytes <= room):
                held.append((own, left))
                room -= left.nbytes
            for other, right in held:
                product = left @ right.T
                gram[np.ix_(own, other)] = product
                gram[np.ix_(other, own)] = product.T
        parts = parts[len(held) :]
    total = float(np.trace(gram))
    variance, vectors = _leading(gram, components)
    axes = np.zeros((components, len(mean)))
    for own, values in rows:
        axes += vectors[own].T.astype(np.float32) @ (values - centre)
    length = np.linalg.norm(axes, axis=1, keepdims=True)
    return variance, axes / np.where(length > 0, length, 1), total


def _by_iteration(
    rows: Pixels, mean: np.ndarray, components: int
) -> tuple[np.ndarray, np.ndarray, float, int]:
    centre = mean.astype(np.float32)
    width = min(components + 20, min(rows.shape))
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((len(mean), width)))[0]
    former, passes = np.zeros(components), 0
    while True:
        passes += 1
        image, total, narrow = np.zeros((len(mean), width)), 0.0, basis.astype(np.float32)
        for _, part in rows:
            centred = part - centre
            total += float(np.square(centred).sum(dtype=np.float64))
            image += centred.T @ (centred @ narrow)
        inner = basis.T @ image
        variance, turn = _leading((inner + inner.T) / 2, components)
        if passes == MOST_PASSES or np.abs(variance - former).max() <= TOLERANCE * variance.max():
            return variance, (basis @ turn).T, total, passes
        former = variance
        basis = np.linalg.qr(image)[0]


def _leading(matrix: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest eigenvalues, descending, and their vectors as columns; `matrix` is used up."""
    from scipy.linalg import eigh

    size = len(matrix)
    values, vectors = eigh(
        matrix, subset_by_index=[size - count, size - 1], overwrite_a=True, check_finite=False
    )
    return values[::-1], vectors[:, ::-1]
