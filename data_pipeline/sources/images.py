"""One image file to an array, by Pillow; what is no good raises with the reason."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.sources.names import shown
from data_pipeline.sources.pixels import Scale, to_bytes

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485  # Pillow's own mark of a decompression bomb
COPIES = {"JPEG2000": 4, "AVIF": 2, "WEBP": 2}
"""Formats of which the decoder holds this many times the pixels."""
FORMATS = [
    "AVIF",
    "BMP",
    "DDS",
    "DIB",
    "GIF",
    "ICO",
    "JPEG",
    "JPEG2000",
    "MPO",
    "PCX",
    "PNG",
    "PPM",
    "PSD",
    "QOI",
    "SGI",
    "SUN",
    "TGA",
    "TIFF",
    "WEBP",
    "XBM",
]
GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N", "I", "F")
RULES = {
    "rotated": "with an EXIF orientation: turned upright",
    "animated": "with several frames or pages: the first is read",
    "transparent": "with transparency: put on white",
    "palette": "with a palette: its colours are read",
    "cmyk": "of CMYK: converted to RGB without a colour profile",
    "other colours": "of YCbCr, LAB or HSV: converted to RGB",
    "deep colour": "of 16 bits a colour: the upper 8 are read; warning: of pictures of 12 bits "
    "that leaves 4, so convert such to 8 bits first",
    "bilevel": "of one bit: black and white",
}
"""What is done to which pictures; each is said once, with the count."""

_STRIP = 64
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Decoded:
    """A decoded image: values (H, W) or (H, W, 3), and which of `RULES` were applied."""

    values: np.ndarray
    rules: frozenset[str]

    @property
    def grey(self) -> bool:
        return self.values.ndim == 2


class LazyImages:
    """Images of files, decoded when they are taken; a slice is a uint8 array (n, C, H, W).

    Parameters
    ----------
    paths : sequence of Path
        The files.
    channels : int
        1 for grey, 3 for RGB.
    height, width : int
        Of every image; files of another size are scaled and cropped about the centre.
    scales : mapping of numpy.dtype to Scale
        What the values of each type mean.
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(
        self,
        paths: Sequence[Path],
        channels: int,
        height: int,
        width: int,
        scales: Mapping[np.dtype, Scale],
    ) -> None:
        self.paths = list(paths)
        self.channels, self.height, self.width = channels, height, width
        self.scales = dict(scales)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, C, H, W)."""
        return (len(self.paths), self.channels, self.height, self.width)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        rows = range(len(self.paths))[which] if isinstance(which, slice) else which
        images = np.empty((len(rows), *self.shape[1:]), np.uint8)
        for place, row in enumerate(rows):
            try:
                images[place] = self._decode(self.paths[row])
            except Exception as error:  # it was good when it was checked
                raise UserError(
                    f"{shown(str(self.paths[row]))}: changed while it was read: {error}"
                ) from error
        return images

    def _decode(self, path: Path) -> np.ndarray:
        from PIL import Image, ImageOps

        with decoded(path) as found:
            image = Image.fromarray(to_bytes(found.values, self.scales[found.values.dtype]))
        image = image.convert("L" if self.channels == 1 else "RGB")
        if image.size != (self.width, self.height):
            image = ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


@contextmanager
def decoded(path: Path) -> Iterator[Decoded]:
    """The first frame of an image file: upright, without transparency, grey or RGB.

    All threads together hold no more than `MAX_PIXELS`.

    Raises
    ------
    Exception
        Of Pillow's many kinds, if it is no image, damaged, or far too large.
    """
    with open(path, "rb") as file:  # not by name: Pillow would map it, and die if it shrinks
        image = _open(file)
        with _room.taken(_pixels(image)):
            found = _decode(image)
            del image
            yield found


def _open(file: IO[bytes]) -> Image.Image:
    """Open a file; only its head is read."""
    from PIL import Image, UnidentifiedImageError

    if os.fstat(file.fileno()).st_size == 0:
        raise UserError("empty")
    try:
        image = Image.open(file, formats=_formats())
    except UnidentifiedImageError:
        raise UserError("not an image") from None
    except Image.DecompressionBombError:
        raise UserError(f"more than {2 * MAX_PIXELS:,} pixels") from None
    if _pixels(image) > MAX_PIXELS:
        limit = MAX_PIXELS // COPIES.get(image.format or "", 1)
        raise UserError(f"{image.width}x{image.height} are more than {limit:,} pixels")
    return image


def _pixels(image: Image.Image) -> int:
    return image.width * image.height * COPIES.get(image.format or "", 1)


def _decode(image: Image.Image) -> Decoded:
    from PIL import ImageOps

    rules = {name for name, applies in _rules_of(image).items() if applies}
    image.load()
    if image.getexif().get(_ORIENTATION, 1) in range(2, 9):
        rules.add("rotated")
    ImageOps.exif_transpose(image, in_place=True)
    wide = image.mode in ("I", "F") or image.mode.startswith("I;16")
    if image.has_transparency_data and not wide:
        return Decoded(_on_white(image), frozenset({*rules, "transparent"}))
    if image.mode not in ("L", "RGB") and not wide:
        image = image.convert("L" if image.mode in GREY_MODES else "RGB")
    values = np.asarray(image)
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return Decoded(native, frozenset(rules))


def _on_white(image: Image.Image) -> np.ndarray:
    """A picture with transparency on white, in strips: a whole one is large enough."""
    from PIL import Image

    grey = image.mode in GREY_MODES
    mode = "L" if grey else "RGB"
    values = np.empty((image.height, image.width) if grey else (image.height, image.width, 3), "u1")
    for top in range(0, image.height, _STRIP):
        box = (0, top, image.width, min(top + _STRIP, image.height))
        layer = image.crop(box).convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        values[top : box[3]] = np.asarray(Image.alpha_composite(white, layer).convert(mode))
    return values


class _Room:
    """Pixels that threads hold at once; one image may take all, none waits for ever."""

    def __init__(self, pixels: int) -> None:
        self._free = pixels
        self._changed = threading.Condition()

    @contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait for room for so many pixels, and hold it."""
        with self._changed:
            self._changed.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._free += pixels
                self._changed.notify_all()


_room = _Room(MAX_PIXELS)


def _rules_of(image: Image.Image) -> dict[str, bool]:
    """Which rules a picture falls under, by its head, before it is loaded."""
    raw = [str(tile.args) for tile in getattr(image, "tile", [])]
    return {
        "animated": getattr(image, "is_animated", False),
        "palette": image.mode in ("P", "PA"),
        "cmyk": image.mode == "CMYK",
        "other colours": image.mode in ("YCbCr", "LAB", "HSV"),
        "deep colour": image.mode in ("RGB", "RGBA", "LA") and any(";16" in args for args in raw),
        "bilevel": image.mode == "1",
    }


@cache
def _formats() -> tuple[str, ...]:
    """Formats that are read: no plugin that runs a program or unpacks without a limit."""
    from PIL import Image

    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)
