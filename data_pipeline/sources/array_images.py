"""Images of arrays in files, whichever axis their channels are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.sources.numpy_files import StoredArray
from data_pipeline.sources.pixels import to_stored
from data_pipeline.sources.tally import Scale
from data_pipeline.values import Values

_CHUNK = 16 << 20


class ArrayImages:
    """Images of arrays in files, read when they are taken: a slice, or the rows at some
    places, is an array (n, C, H, W).

    Parameters
    ----------
    parts : sequence of (StoredArray, Scale)
        One after the other, each with its scale.
    kept : Values
        What becomes of the values.
    rows : numpy.ndarray, optional
        Which of their images these are; all if not given.
    """

    ndim = 4

    def __init__(
        self,
        parts: Sequence[tuple[StoredArray, Scale]],
        kept: Values,
        rows: np.ndarray | None = None,
    ) -> None:
        self.kept, self.dtype = kept, kept.numpy
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(array) for array, _ in parts)])
        self._rows = np.arange(self._starts[-1]) if rows is None else rows
        self._image_shape = image_shape_of(parts[0][0])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, C, H, W)."""
        channels, height, width = self._image_shape
        return (len(self._rows), channels, height, width)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        rows = self._rows[which]
        images = np.empty((len(rows), *self._image_shape), self.dtype)
        part_of = np.searchsorted(self._starts, rows, "right") - 1
        for part in np.unique(part_of).tolist():
            array, scale = self._parts[part]
            places, step = np.flatnonzero(part_of == part), rows_at_once(array)
            for first in range(0, len(places), step):
                chunk = places[first : first + step]
                values = array.take(rows[chunk] - self._starts[part])
                images[chunk] = _channels_first(to_stored(values, scale, self.kept), array)
        return images


def _channels_first(values: np.ndarray, array: StoredArray) -> np.ndarray:
    if values.ndim == 3:
        return values[:, None]
    return values.transpose(0, 3, 1, 2) if _channels_last(array) else values


def check_shape(arrays: Mapping[str, StoredArray], part: str, path: Path) -> None:
    """Refuse shapes that are no images."""
    images = arrays["images"]
    where = f"{path}: images of {part}"
    if len(images.shape) not in (3, 4):
        raise UserError(f"{where}: shape {images.shape}, expected (n, H, W) or with channels")
    if len(images.shape) == 4 and _channel_axis(images) is None:
        raise UserError(
            f"{where}: shape {images.shape}: which axis is the channels is not known; store "
            "(n, C, H, W) or (n, H, W, C) with C 1 or 3, or at most two thirds of H and W"
        )


def _channel_axis(images: StoredArray) -> int | None:
    """1 or 3; None where it cannot be known: the axis of 1 or 3, else a clearly smaller one."""
    _, first, middle, last = images.shape
    if last in (1, 3) and (first not in (1, 3) or middle > 3):
        return 3
    if first in (1, 3):
        return 1
    if 3 * first <= 2 * min(middle, last):
        return 1
    return 3 if 3 * last <= 2 * min(first, middle) else None


def _channels_last(images: StoredArray) -> bool:
    return len(images.shape) == 4 and _channel_axis(images) == 3


def image_shape_of(images: StoredArray) -> tuple[int, int, int]:
    """(C, H, W)."""
    if len(images.shape) == 3:
        return (1, *images.shape[1:])
    _, first, second, third = images.shape
    return (third, first, second) if _channels_last(images) else (first, second, third)


def said_of_axes(images: StoredArray) -> Iterator[str]:
    """What is said of the axes where another reading of them could be meant."""
    shape = ", ".join(map(str, images.shape[1:]))
    last = images.shape[-1]
    if len(images.shape) == 3:
        if last in (1, 3):
            yield (
                f"shape (n, {shape}) is read as (n, H, W): grey images {last} pixels wide, not as one "
                f"image of {last} channels"
            )
        return
    order = "(n, H, W, C)" if _channels_last(images) else "(n, C, H, W)"
    channels = image_shape_of(images)[0]
    if channels not in (1, 3):
        yield f"shape (n, {shape}) is taken as images of {channels} channels, {order}"
    elif images.shape[1] in (1, 3) and last in (1, 3):
        yield f"shape (n, {shape}) could be read in two ways; it is read as {order}"


def rows_at_once(images: StoredArray) -> int:
    """Images in a chunk."""
    if images.nbytes <= _CHUNK:
        return len(images)
    return max(1, _CHUNK // (images.nbytes // len(images)))
