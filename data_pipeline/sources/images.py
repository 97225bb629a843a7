"""One image file to an array, by Pillow; what is no good raises with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

MAX_PIXELS = 89_478_485  # Pillow's own mark of a decompression bomb
GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B", "I;16N")


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
    """

    dtype = np.dtype(np.uint8)
    ndim = 4

    def __init__(self, paths: Sequence[Path], channels: int, height: int, width: int) -> None:
        self.paths = list(paths)
        self.channels, self.height, self.width = channels, height, width

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
                raise UserError(f"{self.paths[row]}: changed while it was read: {error}") from error
        return images

    def _decode(self, path: Path) -> np.ndarray:
        from PIL import Image, ImageOps

        with open_image(path) as opened:
            image = upright(opened).convert("L" if self.channels == 1 else "RGB")
        if image.size != (self.width, self.height):
            image = ImageOps.fit(image, (self.width, self.height), Image.Resampling.LANCZOS)
        pixels = np.asarray(image)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


def open_image(path: Path) -> Image.Image:
    """Open a file; only its head is read. Raises if it is no image, or far too large."""
    from PIL import Image, UnidentifiedImageError

    try:
        image = Image.open(path, formats=_formats())
    except UnidentifiedImageError:
        raise UserError("not an image") from None
    except Image.DecompressionBombError:
        raise UserError(f"more than {2 * MAX_PIXELS:,} pixels") from None
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise UserError(f"{image.width}x{image.height} are more than {MAX_PIXELS:,} pixels")
    return image


def upright(image: Image.Image) -> Image.Image:
    """Decode the first frame: turned as its EXIF says, 8 bits, on white where transparent."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):
        high = np.asarray(image).astype(np.uint16) >> 8
        return Image.fromarray(high.astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UserError("32 bits a pixel; make it 8 or 16")
    if image.has_transparency_data:
        grey = image.mode in GREY_MODES
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, "white")
        image = Image.alpha_composite(white, layer).convert("L" if grey else "RGB")
    return image


def is_grey(mode: str) -> bool:
    """Whether a Pillow mode has no colour."""
    return mode in GREY_MODES


@cache
def _formats() -> tuple[str, ...]:
    """All that Pillow reads but EPS, for which it runs another program on the file."""
    from PIL import Image

    Image.init()
    return tuple(name for name in Image.OPEN if name != "EPS")
