"""What a latent space is like: what the 2018 article claimed of UMAP and the VAE, measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from evaluation.results.blanks import blank
from evaluation.sampling import rows_of

ACTIVE = 0.01  # Burda et al. (2016): a unit is active where Var[mu] exceeds this
PAIRS, STEPS = 500, 9
LINES = 10  # that are decoded at a time
DECODED = 1 << 26  # values of images on all lines: beyond 128 pixels, decoding takes minutes
MOST_LATENTS = 256
"""Latents that have a row of their own; of more latents those with the largest KL."""


def posterior_figures(latents: dict[str, np.ndarray], seed: int) -> Iterator[dict[str, Any]]:
    """Rows on a VAE's posterior over the test images.

    ``active_units``; ``kl_by_latent``, one row for each latent (nats, from N(0, 1)), of more than
    `MOST_LATENTS` for those with the largest;
    ``aggregate_distance``, the sliced Wasserstein-2 distance of q(z), all test images'
    posteriors together, from N(0, I), in units of the prior's standard deviation.
    """
    mu, logvar = latents["test/mu"], latents["test/logvar"]
    active = int((mu.var(0) > ACTIVE).sum())
    yield {"metric": "active_units", "split": "test", "value": float(active)}
    kl = latents["test/kl_dim"].mean(0, dtype=np.float64)
    for index in np.sort(np.argsort(-kl, kind="stable")[:MOST_LATENTS]):
        yield {
            "metric": "kl_by_latent",
            "split": "test",
            "value": float(kl[index]),
            "unit": "nats",
            "index": int(index),
        }
    rng = np.random.default_rng(seed)
    z = mu + rng.standard_normal(mu.shape) * np.exp(logvar / 2)
    yield {
        "metric": "aggregate_distance",
        "split": "test",
        "seed": seed,
        "value": sliced_distance(z, rng),
        "note": "sliced Wasserstein-2, 64 directions",
    }


def sliced_distance(z: np.ndarray, rng: np.random.Generator, directions: int = 64) -> float:
    """Sliced Wasserstein-2 distance of points from N(0, I), by quantiles along directions."""
    from scipy.stats import norm

    axes = rng.standard_normal((z.shape[1], directions))
    axes /= np.linalg.norm(axes, axis=0)
    along = np.sort(z @ axes, axis=0)
    normal = norm.ppf((np.arange(len(z)) + 0.5) / len(z))[:, None]
    return float(np.sqrt(np.mean((along - normal) ** 2)))


def pairs_of(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of pairs of test images, of different classes where several have labels."""
    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, len(labels), (2, 4 * PAIRS))
    differ = first != second
    if _several_classes(labels):
        differ = (labels[first] != labels[second]) & (
            np.minimum(labels[first], labels[second]) >= 0
        )
    return first[differ][:PAIRS], second[differ][:PAIRS]


def _several_classes(labels: np.ndarray) -> bool:
    return len(np.unique(labels[labels >= 0])) > 1


def _lines_note(count: int, labels: np.ndarray) -> str:
    between = "classes" if _several_classes(labels) else "test images"
    return f"{count} lines between {between}"


def lines(points: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Points (pairs, STEPS, d) on the straight lines between pairs, both ends included."""
    share = np.linspace(0, 1, STEPS, dtype=np.float32)[None, :, None]
    return points[first][:, None] * (1 - share) + points[second][:, None] * share


def emptiness(
    train: np.ndarray, test: np.ndarray, labels: np.ndarray, seed: int
) -> Iterator[dict[str, Any]]:
    """How empty an embedding is between classes.

    ``gap``: on straight lines between test images of different classes, the largest distance
    from a point of the line to the nearest training image, over the median distance of a test
    image to its nearest training image; the median over pairs. A continuous cloud gives a
    few, islands in an empty sea give many.
    """
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=1, n_jobs=-1).fit(train)
    own = index.kneighbors(test[rows_of(len(test), 2000, seed, "gap")])[0][:, 0]
    first, second = pairs_of(labels, seed)
    if not len(first) or not np.median(own) > 0:
        reason = "test images lie on training images" if len(first) else "no pairs of test images"
        yield blank("gap", reason, split="test")
        return
    along = lines(test, first, second)
    distance = index.kneighbors(along.reshape(-1, train.shape[1]))[0].reshape(len(first), STEPS)
    yield {
        "metric": "gap",
        "split": "test",
        "seed": seed,
        "value": float(np.median(distance.max(1)) / np.median(own)),
        "backend": "cpu",
        "note": _lines_note(len(first), labels),
    }


def smoothness(
    decode: Callable[[np.ndarray], np.ndarray],
    mu: np.ndarray,
    labels: np.ndarray,
    seed: int,
    pixels: int = 1,
) -> Iterator[dict[str, Any]]:
    """How evenly a decoder moves along straight lines between latents of test images.

    ``interpolation_length``: length of the decoded path over the distance of its ends, at
    least 1. ``interpolation_jump``: the largest step over the mean step, at least 1. Medians
    over 100 pairs; of large images, which have `pixels` values each, over as few as 10.
    """
    first, second = pairs_of(labels, seed)
    most = min(100, max(10, DECODED // (STEPS * pixels)))
    first, second = first[:most], second[:most]
    if not len(first):
        for metric in ("interpolation_length", "interpolation_jump"):
            yield blank(metric, "no pairs of test images", split="test")
        return
    step, ends = [], []
    for part in np.split(lines(mu, first, second), range(LINES, len(first), LINES)):
        images = decode(part.reshape(-1, mu.shape[1])).reshape(len(part), STEPS, -1)
        step.append(np.linalg.norm(np.diff(images, axis=1), axis=2))
        ends.append(np.linalg.norm(images[:, -1] - images[:, 0], axis=1).clip(min=1e-12))
    steps = np.concatenate(step)
    common = {"split": "test", "seed": seed, "note": _lines_note(len(first), labels)}
    yield {
        "metric": "interpolation_length",
        "value": float(np.median(steps.sum(1) / np.concatenate(ends))),
        **common,
    }
    jump = steps.max(1) / steps.mean(1).clip(min=1e-12)
    yield {"metric": "interpolation_jump", "value": float(np.median(jump)), **common}
