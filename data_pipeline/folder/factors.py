"""The known factors of a data folder's images, where its source drew them from a grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.folder.manifest import Manifest

_MOST = 64  # factors: more than numpy's unravel_index takes are no grid


def factors_of(manifest: Manifest) -> dict[str, int]:
    """Names of the factors and how many values each has; empty where none are known.

    An image's index is its place in the grid of the factors, the last changing fastest.

    Raises
    ------
    UserError
        If the manifest's factors make no grid.
    """
    found = manifest.provenance.get("source", {}).get("factors", [])
    sound = isinstance(found, list) and len(found) <= _MOST and all(map(_is_factor, found))
    factors = dict(found) if sound else {}
    if not sound or len(factors) < len(found) or math.prod(factors.values()) >= 2**62:
        raise UserError(
            f"{manifest.name}: factors {str(found)[:80]} of its manifest are no names with numbers of "
            "values; write the folder again with vae-dist prepare"
        )
    return factors


def _is_factor(found: Any) -> bool:
    """Whether it is a name and its number of values."""
    return (
        isinstance(found, list)
        and len(found) == 2
        and isinstance(found[0], str)
        and type(found[1]) is int
        and 1 <= found[1] < 2**31
    )


def values_of(factors: dict[str, int], index: np.ndarray) -> np.ndarray:
    """Each image's values of the factors.

    Parameters
    ----------
    factors : dict of str to int
        As `factors_of` gives them, at least one.
    index : numpy.ndarray
        (n,), int64, the images' positions in the source.

    Returns
    -------
    numpy.ndarray
        (n, factors), int64, counted from 0.

    Raises
    ------
    UserError
        If an index lies outside the grid.
    """
    places = math.prod(factors.values())
    if len(index) and not 0 <= index.min() <= index.max() < places:
        raise UserError(
            f"image {index.max()}: outside the {places:,} combinations of the factors "
            f"{', '.join(factors)}; write the folder again with vae-dist prepare"
        )
    return np.stack(np.unravel_index(index, tuple(factors.values())), axis=1).astype(np.int64)
