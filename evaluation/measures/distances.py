"""How far two sets of images lie apart by their features: Fréchet and kernel distance."""

from __future__ import annotations

import numpy as np

SUBSETS, SUBSET_SIZE = 100, 1000


def frechet_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Squared Fréchet distance of the normal distributions fitted to two sets (Heusel et al. 2017).

    With Inception's features it is FID. It is biased upwards, the more the fewer the images.

    Parameters
    ----------
    one, other : array of float, shapes (n, d) and (m, d)
        Features; n and m at least 2.
    """
    one, other = one.astype(np.float64), other.astype(np.float64)
    shift = one.mean(0) - other.mean(0)
    first, second = (np.atleast_2d(np.cov(part, rowvar=False)) for part in (one, other))
    # tr (S1 S2)^1/2 is the sum of the roots of the eigenvalues of S1^1/2 S2 S1^1/2, which is symmetric.
    scale, axes = np.linalg.eigh(first)
    root = (axes * np.sqrt(scale.clip(0))) @ axes.T
    both = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return max(0.0, float(shift @ shift + np.trace(first) + np.trace(second) - 2 * both))


def kernel_distance(one: np.ndarray, other: np.ndarray, seed: int = 0) -> list[float]:
    """Unbiased squared MMD with the kernel (x·y / d + 1)³, of 100 subsets (Binkowski et al. 2018).

    Their mean is, with Inception's features, KID. It can be below 0.

    Parameters
    ----------
    one, other : array of float, shapes (n, d) and (m, d)
        Features; n and m at least 2.
    seed : int
        Of the subsets, 1,000 rows of each set or as many as there are.
    """
    rng = np.random.default_rng(seed)
    size = min(SUBSET_SIZE, len(one), len(other))
    found = []
    for _ in range(SUBSETS):
        x, y = (part[rng.choice(len(part), size, replace=False)] for part in (one, other))
        x, y = x.astype(np.float64), y.astype(np.float64)
        within = sum(_sum_of_pairs(_kernel(part, part)) for part in (x, y))
        found.append(within / (size * (size - 1)) - 2 * float(_kernel(x, y).mean()))
    return found


def _kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    base = x @ y.T / x.shape[1] + 1
    return base * base * base  # a power takes longer


def _sum_of_pairs(kernel: np.ndarray) -> float:
    """Over different rows."""
    return float(kernel.sum() - np.trace(kernel))
