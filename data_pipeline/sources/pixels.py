"""What a stored number means as a brightness: one rule for every source, always said.

``--scale auto`` (the default) takes what the type and the values leave no doubt about, and
refuses the rest; ``--scale LOW,HIGH`` and ``--scale percentile`` decide it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.sources.tally import PERCENTILES, Scale, Tally
from data_pipeline.values import Values

DEPTHS = (10, 12, 14, 16)
SLACK = 0.5 / 255
"""Half a grey level: how far floats may lie outside 0 to 1 and still mean it."""
DARK = 0.25
"""A highest value below this share of white is worth a word."""


def parse_scales(text: str) -> dict[str, tuple[float, float]]:
    """Black and white by type, of ``uint8=0,255;uint16=0,4095``; empty for every other text."""
    if "=" not in text:
        return {}
    pairs = (part.split("=", 1) for part in text.split(";"))
    try:
        found = {np.dtype(name).name: parse_scale(span) for name, span in pairs}
    except TypeError:
        found = {}
    if not found or not all(found.values()):
        raise UserError(f"--scale {text}: expected TYPE=LOW,HIGH;TYPE=LOW,HIGH")
    return {name: span for name, span in found.items() if span}


def parse_scale(text: str) -> tuple[float, float] | None:
    """LOW and HIGH of ``--scale LOW,HIGH``; None for ``auto`` and ``percentile``.

    Raises
    ------
    UserError
        If it is none of the three.
    """
    if text in ("auto", "percentile") or parse_scales(text):
        return None
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = math.nan
    if not -math.inf < low < high < math.inf:
        raise UserError(
            f"--scale {text}: expected auto, percentile, or LOW,HIGH as in --scale=0,4095"
        )
    return low, high


def scale_for(asked: str, tally: Tally, where: str) -> Scale:
    """The scale of some images.

    Parameters
    ----------
    asked : str
        ``--scale`` as given.
    tally : Tally
        Of their values.
    where : str
        Names the images in messages.

    Raises
    ------
    UserError
        If values are not finite, if the type holds no brightness, or if ``auto`` cannot know.
    """
    dtype = tally.dtype
    if dtype.kind not in "biuf":
        raise UserError(f"{where}: numbers expected, not {dtype}")
    if tally.unusable:
        raise UserError(
            f"{where}: {tally.unusable:,} of {tally.count:,} values are NaN or infinite; "
            "replace them first (numpy.nan_to_num)"
        )
    given = parse_scale(asked)
    if given is not None:
        return Scale(*given, f"--scale {asked}")
    if asked == "percentile":
        low, high = tally.percentiles()
        if low == high:
            raise UserError(f"{where}: nearly all values are {low:g}; give --scale LOW,HIGH")
        return Scale(low, high, f"their percentiles {PERCENTILES[0]} and {PERCENTILES[1]}")
    scale = _automatic(dtype, tally.low, tally.high)
    if by_type := parse_scales(asked):
        alike = {_family(np.dtype(name)): span for name, span in by_type.items()}
        if span := alike.get(_family(dtype)):
            return Scale(*span, "that of the training data")
        if scale is None or dtype.kind not in "bf" or (scale.low, scale.high) != (0, 1):
            raise UserError(
                f"{where}: values of {dtype}, and it cannot be known which are black and white: "
                f"the training data were {', '.join(by_type)}; give --scale=LOW,HIGH"
            )
    if scale is None:
        example = f"--scale={tally.low:g},{tally.high:g}"
        raise UserError(
            f"{where}: {dtype} values lie in {tally.low:g} to {tally.high:g}, so it cannot be "
            f"known which is black and which is white; give --scale=LOW,HIGH (as {example}) "
            "or --scale percentile"
        )
    return replace(scale, chosen=True)


def _family(dtype: np.dtype) -> str:
    """Types whose numbers mean the same: of any length, but bytes are a kind of their own."""
    return dtype.name if dtype in (np.uint8, np.bool_) else dtype.kind.replace("u", "i")


def _automatic(dtype: np.dtype, low: float, high: float) -> Scale | None:
    """What type and range leave no doubt about, else None."""
    if dtype.kind == "b":
        return Scale(0, 1, "booleans")
    if dtype.kind == "f":
        if low >= -SLACK and high <= 1 + SLACK:
            return Scale(0, 1, "floats of 0 to 1")
        if abs(low + 1) <= SLACK and abs(high - 1) <= SLACK:
            return Scale(-1, 1, "floats of -1 to 1")
        return Scale(0, 255, "floats of 0 to 255") if low >= -0.5 and 127 < high <= 255.5 else None
    if low < 0:
        return None
    if high == 1:
        return Scale(0, 1, "only 0 and 1: a mask")
    if dtype == np.uint8 or high == 0:
        return Scale(0, 255, "bytes")
    if high <= 255:
        return Scale(0, 255, "no value above 255: 8 bits") if high > 127 else None
    bits = next((bits for bits in DEPTHS if high < 1 << bits), None)
    return Scale(0, (1 << bits) - 1, f"the fewest bits that hold them: {bits}") if bits else None


def said(tally: Tally, scale: Scale, what: str) -> str | None:
    """One line on what was assumed; None where bytes are bytes.

    Parameters
    ----------
    what : str
        Begins the line, as in ``"set.npz"`` or ``"24 pictures of 16 bits"``.
    """
    bytes_as_they_are = tally.dtype == np.uint8 and (scale.low, scale.high) == (0, 255)
    if tally.low == tally.high:
        return f"{what}: warning: every value is {tally.low:g}"
    dark = tally.high < scale.low + DARK * (scale.high - scale.low)
    if bytes_as_they_are and not dark:
        return None
    clipped = tally.outside(scale)
    return (
        f"{what}: {tally.dtype} values of {tally.low:g} to {tally.high:g}: {scale.low:g} becomes "
        f"black and {scale.high:g} white ({scale.why})"
        + (f"; {clipped:.2%} of the values lie outside and are clipped" if clipped else "")
        + (
            f"; warning: nearly black: if {tally.high:g} is white, "
            f"give --scale={min(tally.low, 0):g},{tally.high:g}"
            if dark
            else ""
        )
        + ("; --scale=LOW,HIGH says otherwise" if scale.chosen and not dark else "")
    )


def kept_as(asked: str, found: Sequence[tuple[Tally, Scale]], what: str) -> tuple[Values, str]:
    """What shards hold of some images, and one line on it (empty where that is bytes).

    Parameters
    ----------
    asked : str
        ``--dtype``: ``auto`` keeps integers in the smallest type that loses nothing, and stores
        floats, most of which are 8-bit images divided by 255, as bytes.
    found : sequence of (Tally, Scale)
        Their values, type by type.
    what : str
        Begins the line.
    """
    natural = {(_smallest(tally, scale), (scale.low, scale.high)) for tally, scale in found}
    types = {dtype for dtype, _ in natural}
    if asked == "uint8" or (asked == "auto" and types == {"uint8"}):
        return Values(), ""
    if asked == "auto" and all(
        tally.dtype.kind == "f" or tally.dtype == np.uint8 for tally, _ in found
    ):
        return Values(), f"{what}: floats, stored as 256 levels; --dtype float32 keeps the values"
    one = len(natural) == 1
    dtype = asked if asked != "auto" else types.pop() if one else "float32"
    if one and all(_holds(dtype, tally) for tally, _ in found):
        scale = found[0][1]
        values = Values(dtype, (scale.low, scale.high))
        how = "the values as they are" if _exact(dtype, found) else "the values rounded"
    else:
        values = Values(dtype, (0.0, 65535.0 if dtype == "uint16" else 1.0))
        assert values.scale is not None
        how = f"the values mapped to {values.scale[0]:g} to {values.scale[1]:g}"
    fewer = "; --dtype uint8 stores 256 levels in less memory" if asked == "auto" else ""
    return values, f"{what}: stored as {dtype}, {how}{fewer}"


def _smallest(tally: Tally, scale: Scale) -> str:
    """The smallest type in which the values lose nothing; of 64-bit floats, float32."""
    span = (scale.low, scale.high)
    levels = span in ((0, 255), (0, 1)) and tally.whole
    if tally.dtype in (np.bool_, np.uint8) or (
        levels and span[0] <= tally.low and tally.high <= span[1]
    ):
        return "uint8"
    if tally.dtype.kind in "iu" and tally.low >= 0 and tally.high <= 65535:
        return "uint16"
    return "float16" if tally.dtype == np.float16 else "float32"


def _holds(dtype: str, tally: Tally) -> bool:
    """Whether the type takes the values as they are, floats rounded to it."""
    if dtype == "uint16":
        return tally.whole and tally.low >= 0 and tally.high <= 65535
    if dtype == "float16":
        return max(-tally.low, tally.high) <= 2048 or tally.dtype == np.float16
    return True


def _exact(dtype: str, found: Sequence[tuple[Tally, Scale]]) -> bool:
    bits = {"uint16": 1 << 16, "float16": 1 << 11, "float32": 1 << 24}[dtype]
    return all(
        np.can_cast(tally.dtype, dtype) or (tally.whole and max(-tally.low, tally.high) <= bits)
        for tally, _ in found
    )


def to_stored(values: np.ndarray, scale: Scale, kept: Values) -> np.ndarray:
    """Values as shards hold them.

    Parameters
    ----------
    values : numpy.ndarray
        Of booleans or numbers, any shape.
    scale : Scale
        Which of them are black and white.
    kept : Values
        What is stored: bytes, or the values as they are where it has the same scale.
    """
    if kept.are_bytes:
        return to_bytes(values, scale)
    assert kept.scale is not None
    if kept.scale == (scale.low, scale.high):
        return values.astype(kept.numpy, copy=False)
    low, high = kept.scale
    mapped = (values.astype(np.float64) - scale.low) * ((high - low) / (scale.high - scale.low))
    mapped += low
    if kept.numpy.kind == "u":
        mapped = np.round(np.clip(mapped, low, high, out=mapped))
    return mapped.astype(kept.numpy)


def to_bytes(values: np.ndarray, scale: Scale) -> np.ndarray:
    """Values as grey levels: 0 at ``scale.low``, 255 at ``scale.high``, rounded, clipped.

    Parameters
    ----------
    values : numpy.ndarray
        Of booleans or numbers, any shape; temporary memory is eight times its size.
    scale : Scale
        Which values are black and white.

    Returns
    -------
    numpy.ndarray
        uint8, of the same shape; the very array where nothing is to be done.
    """
    if values.dtype == np.uint8 and (scale.low, scale.high) == (0, 255):
        return values
    if values.dtype.kind == "u" and values.dtype.itemsize <= 2:
        return _table(values.dtype.itemsize, scale.low, scale.high)[values]
    return _levels(values, scale.low, scale.high)


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.round(np.clip(scaled, 0, 255, out=scaled), out=scaled).astype(np.uint8)


@lru_cache(maxsize=8)
def _table(itemsize: int, low: float, high: float) -> np.ndarray:
    return _levels(np.arange(256**itemsize), low, high)
