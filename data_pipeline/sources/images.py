"""One image file to an array, by Pillow; what is no good raises with the reason."""

from __future__ import annotations

import hashlib
import io
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
from data_pipeline.sources.pixels import Scale, to_bytes, to_stored
from data_pipeline.values import Values

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

GREY = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in a grey level, as Pillow takes them."""

_BYTES = Values()
_STRIP = 64
_ORIENTATION = 0x0112


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


@dataclass(frozen=True)
class Decoded:
    """A decoded image: values (H, W) or (H, W, C), and which of `RULES` were applied."""

    values: np.ndarray
    rules: frozenset[str]

    @property
    def channels(self) -> int:
        return 1 if self.values.ndim == 2 else self.values.shape[2]


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
        from PIL import Image, ImageOps

        size = (self.width, self.height)
        if not self.kept.are_bytes:
            with decoded(stored) as found:
                values = to_stored(found.values, self.scales[found.values.dtype], self.kept)
            return _fitted(_channels(values, self.channels), size)
        with decoded(stored) as found:
            levels = to_bytes(found.values, self.scales[found.values.dtype])
            if self.channels in (1, 3) and found.channels in (1, 3):
                mode = "L" if self.channels == 1 else "RGB"
                planes = [Image.fromarray(levels.squeeze()).convert(mode)]
            else:
                planes = [Image.fromarray(levels[..., c]) for c in range(self.channels)]
        fitted = [
            np.asarray(p if p.size == size else ImageOps.fit(p, size, Image.Resampling.LANCZOS))
            for p in planes
        ]
        if len(fitted) > 1 or self.channels == 1:
            return np.stack(fitted)
        return fitted[0].transpose(2, 0, 1)


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
    with stored.open() as file:
        image = _open(file)
        with _room.taken(_pixels(image)):
            found = _decode(image)
            del image
            yield found


def _open(file: IO[bytes]) -> Image.Image:
    """Open a file; only its head is read."""
    from PIL import Image, UnidentifiedImageError

    if not file.read(1):
        raise UserError("empty")
    file.seek(0)
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
