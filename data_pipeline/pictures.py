"""The bytes of a picture to an array, by Pillow; what is no good raises with the reason."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import IO, TYPE_CHECKING

import numpy as np

from data_pipeline.errors import UserError

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
    "that leaves 4 (of TIFFs, --dataset tiff reads all 16)",
    "bilevel": "of one bit: black and white",
}
"""What is done to which pictures; each is said once, with the count."""

_STRIP = 64
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Decoded:
    """A decoded image: values (H, W) or (H, W, C), and which of `RULES` were applied."""

    values: np.ndarray
    rules: frozenset[str]

    @property
    def channels(self) -> int:
        return 1 if self.values.ndim == 2 else self.values.shape[2]


@contextmanager
def decoded_bytes(file: IO[bytes], formats: tuple[str, ...] | None = None) -> Iterator[Decoded]:
    """`decoded`, of an open file, which is of one of some formats."""
    image = _open(file, formats or _formats())
    with _room.taken(_pixels(image)):
        found = _decode(image)
        del image
        yield found


def _open(file: IO[bytes], formats: tuple[str, ...]) -> Image.Image:
    """Open a file; only its head is read."""
    from PIL import Image, UnidentifiedImageError

    if not file.read(1):
        raise UserError("empty")
    file.seek(0)
    try:
        image = Image.open(file, formats=formats)
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
        """Wait until this many pixels fit in memory, and reserve them."""
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


def fitted_levels(
    levels: np.ndarray,
    shape: tuple[int, int, int],
    box: tuple[int, int, int, int] | None = None,
) -> np.ndarray:
    """Grey levels (C, H, W) of a shape, scaled by Pillow's Lanczos filter.

    Parameters
    ----------
    levels : numpy.ndarray
        uint8, (h, w) or (h, w, c).
    shape : tuple of int
        (C, H, W).
    box : tuple of int, optional
        Top, left, height and width of what is scaled to H and W; without, as much about the
        centre as has their ratio.
    """
    from PIL import Image, ImageOps

    channels, size = shape[0], (shape[2], shape[1])
    if box is not None:
        top, left, height, width = box
        levels = levels[top : top + height, left : left + width]
    if channels in (1, 3) and (levels.ndim == 2 or levels.shape[2] in (1, 3)):
        colours = levels[..., 0] if levels.shape[2:] == (1,) else levels
        planes = [Image.fromarray(colours).convert("L" if channels == 1 else "RGB")]
    else:
        planes = [Image.fromarray(levels[..., c]) for c in range(channels)]
    lanczos = Image.Resampling.LANCZOS
    fitted = [
        np.asarray(
            plane
            if plane.size == size
            else plane.resize(size, lanczos)
            if box is not None
            else ImageOps.fit(plane, size, lanczos)
        )
        for plane in planes
    ]
    if len(fitted) > 1 or channels == 1:
        return np.stack(fitted)
    return fitted[0].transpose(2, 0, 1)
