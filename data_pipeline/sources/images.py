"""Images of files, decoded when they are taken."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.folder.encoded import suffix_of
from data_pipeline.pictures import Decoded, decoded_bytes, fitted_levels
from data_pipeline.sources.names import shown
from data_pipeline.sources.pixels import to_bytes, to_stored
from data_pipeline.sources.tally import Scale
from data_pipeline.values import Values

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey level, as Pillow takes them."""

_BYTES = Values()


@dataclass(frozen=True)
class Stored:
    """Where the bytes of an image are: a file, or a part of one.

    Attributes
    ----------
    path : Path
        The file.
    offset, size : int
        The part; size -1: the whole file.
    page : int
        Which image of a TIFF stack.
    kind : {"picture", "tiff"}
        Who reads it: Pillow, or tifffile.
    owner : object
        Kept so that a temporary file lives as long as what lies in it.
    """

    path: Path
    offset: int = 0
    size: int = -1
    page: int = 0
    kind: str = "picture"
    owner: object = None

    @property
    def whole(self) -> bool:
        """Whether it is a file of its own."""
        return self.size < 0

    @contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """The bytes as a file."""
        with open(
            self.path, "rb"
        ) as file:  # not by name: Pillow would map it, and die if it shrinks
            if self.whole:
                yield file
                return
            file.seek(self.offset)
            yield io.BytesIO(file.read(self.size))

    def sha256(self) -> str:
        """SHA-256 of the bytes, and of what is read of them."""
        with self.open() as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        return f"{found}#{self.page}" if self.page else found


class LazyImages:
    """Images of files, decoded when they are taken; a slice is an array (n, C, H, W).

    Parameters
    ----------
    stored : sequence of Stored
        Where they are.
    channels : int
        1 for grey, 3 for RGB, or as many as each has.
    height, width : int
        Of every image; files of another size are scaled and cropped about the centre.
    scales : mapping of numpy.dtype to Scale
        What the values of each type mean.
    kept : Values
        What becomes of them.
    """

    ndim = 4

    def __init__(
        self,
        stored: Sequence[Stored],
        channels: int,
        height: int,
        width: int,
        scales: Mapping[np.dtype, Scale],
        kept: Values = _BYTES,
    ) -> None:
        self.kept, self.dtype = kept, kept.numpy
        self.stored = list(stored)
        self.channels, self.height, self.width = channels, height, width
        self.scales = dict(scales)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, C, H, W)."""
        return (len(self.stored), self.channels, self.height, self.width)

    @property
    def paths(self) -> list[Path]:
        """The files that they lie in, one an image."""
        return [stored.path for stored in self.stored]

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        rows = range(len(self.stored))[which] if isinstance(which, slice) else which
        images = np.empty((len(rows), *self.shape[1:]), self.dtype)
        for place, row in enumerate(rows):
            try:
                images[place] = self._decode(self.stored[row])
            except Exception as error:  # it was good when it was checked
                raise UserError(
                    f"{shown(str(self.stored[row].path))}: changed while it was read: {error}"
                ) from error
        return images

    def _decode(self, stored: Stored) -> np.ndarray:
        if not self.kept.are_bytes:
            with decoded(stored) as found:
                values = to_stored(found.values, self.scales[found.values.dtype], self.kept)
            return _fitted(_channels(values, self.channels), (self.width, self.height))
        with decoded(stored) as found:
            levels = to_bytes(found.values, self.scales[found.values.dtype])
            return fitted_levels(levels, (self.channels, self.height, self.width))

    @property
    def encoded_bytes(self) -> int:
        """Bytes of all files; a UserError where they are not kept as they are."""
        plain = self.kept.are_bytes and self.channels in (1, 3)
        if not plain or any(
            dtype != np.uint8 or (scale.low, scale.high) != (0, 255)
            for dtype, scale in self.scales.items()
        ):
            raise UserError(
                "--layout encoded: keeps pictures of 8 bits a colour, grey or RGB, whose black is 0 "
                "and whose white is 255, and these are others; Fix: --layout block"
            )
        return sum(s.path.stat().st_size if s.whole else s.size for s in self.stored)

    def encoded(self, rows: Sequence[int] | np.ndarray) -> Iterator[tuple[str, bytes]]:
        """Suffix and bytes of images: JPEG and PNG files as they are, others as PNG."""
        from PIL import Image

        for row in rows:
            stored = self.stored[row]
            with stored.open() as file:
                content = file.read()
            suffix = suffix_of(content)
            if suffix is None:
                with decoded(stored) as found:
                    stream = io.BytesIO()
                    Image.fromarray(found.values.squeeze()).save(stream, "PNG")
                suffix, content = "png", stream.getvalue()
            yield suffix, content


def _channels(values: np.ndarray, channels: int) -> np.ndarray:
    """An image (C, H, W) of an array (H, W) or (H, W, C); grey by the weights of Pillow."""
    planes = values[None] if values.ndim == 2 else values.transpose(2, 0, 1)
    if len(planes) == channels:
        return planes
    if len(planes) == 1:
        return np.repeat(planes, channels, axis=0)
    return _rounded(np.tensordot(GREY, planes.astype(np.float64), axes=1)[None], values.dtype)


def _fitted(planes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (C, H, W) scaled and cropped about its centre, as 32-bit floats."""
    from PIL import Image, ImageOps

    if planes.shape[:0:-1] == size:
        return planes
    wide = [Image.fromarray(plane.astype(np.float32)) for plane in planes]
    found = [np.asarray(ImageOps.fit(p, size, Image.Resampling.LANCZOS)) for p in wide]
    return _rounded(np.stack(found), planes.dtype)


def _rounded(values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if dtype.kind == "u":
        values = np.round(values).clip(0, np.iinfo(dtype).max)
    return values.astype(dtype)


@contextmanager
def decoded(stored: Stored) -> Iterator[Decoded]:
    """An image, upright, without transparency: grey, RGB, or as many channels as it has.

    All threads together hold no more than `MAX_PIXELS`.

    Raises
    ------
    Exception
        Of Pillow's and tifffile's many kinds, if it is no image, damaged, or far too large.
    """
    if stored.kind == "tiff":
        from data_pipeline.sources.tiff_files import decode_tiff

        yield Decoded(decode_tiff(stored.path, stored.page), frozenset())
        return
    with stored.open() as file, decoded_bytes(file) as found:
        yield found
