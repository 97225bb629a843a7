"""Pictures as they came, JPEG or PNG of any size: decoded and brought to one size when read."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.pictures import decoded_bytes, fitted_levels

Box = Callable[[int, int, int], tuple[int, int, int, int]]
"""Which part of a picture is read: of its place among those wanted, its height and its width,
the part's top, left, height and width."""
FORMATS = ("JPEG", "PNG")
_SUFFIXES = {b"\xff\xd8\xff": "jpg", b"\x89PNG\r\n\x1a\n": "png"}
SUFFIXES = frozenset(_SUFFIXES.values())


def suffix_of(content: bytes) -> str | None:
    """``jpg`` or ``png``, by the first bytes; None where it is neither."""
    return next((s for head, s in _SUFFIXES.items() if content.startswith(head)), None)


def picture_levels(
    content: bytes, shape: tuple[int, int, int], box: Box | None, place: int
) -> np.ndarray:
    """Grey levels (C, H, W) of a picture.

    Parameters
    ----------
    content : bytes
        JPEG or PNG.
    shape : tuple of int
        (C, H, W) that it is brought to, C being 1 or 3.
    box : Box, optional
        Which part of the upright picture is scaled to H and W; without, as much about its
        centre as has their ratio.
    place : int
        What `box` is asked for.
    """
    try:
        with decoded_bytes(io.BytesIO(content), FORMATS) as found:
            if found.values.dtype != np.uint8:
                raise UserError(f"a picture of {found.values.dtype}")
            height, width = found.values.shape[:2]
            part = None if box is None else box(place, height, width)
            return fitted_levels(found.values, shape, part)
    except UserError:
        raise
    except Exception as error:  # whatever a foreign picture makes the decoder raise
        raise UserError(f"a picture that does not decode: {error}") from error
