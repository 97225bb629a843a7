"""One image of a TIFF file, by tifffile (extra ``tiff``)."""

from __future__ import annotations

import logging
import math
import os
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.sources.bounds import SMALL, refuse_bomb
from data_pipeline.sources.names import shown

CHANNELS = "CS"
PLANES = "YX"


def decode_tiff(path: Path, number: int) -> np.ndarray:
    """One image of a TIFF: (H, W), or (H, W, C) where it has channels."""
    with _reading:
        stack = _stack(path, os.getpid())
        planes = [stack.page(number, channel) for channel in range(stack.channels)]
    values = np.concatenate(planes, axis=2)
    native = values.astype(values.dtype.newbyteorder("="), copy=False)
    return native[..., 0] if native.shape[2] == 1 else native


class _Stack:
    """The first series of a TIFF: images by pages, each of one or more channels."""

    def __init__(self, path: Path) -> None:
        self._file = reader().TiffFile(path)
        if not self._file.series:
            raise UserError("no image in it")
        self._series = self._file.series[0]
        page = self._series.keyframe
        self._page_axes = str(page.axes)
        inner = len(page.shape)
        axes, shape = self._series.axes, self._series.shape
        if axes[len(axes) - inner :] != self._page_axes or not {*PLANES} <= {*self._page_axes}:
            axes, shape = "Q" + self._page_axes, (len(self._series.pages), *page.shape)
        outer = list(zip(axes[: len(axes) - inner], shape[: len(axes) - inner], strict=True))
        if {*self._page_axes} - {*PLANES, *CHANNELS}:
            raise UserError(f"pages have the axes {self._page_axes}; Y, X and S are read")
        self._outer = tuple(count for _, count in outer)
        self._of_channels = tuple(axis in CHANNELS for axis, _ in outer)
        if math.prod(self._outer) != len(self._series.pages):
            raise UserError("its images are not stored page by page; save it again with tifffile")
        self.channels = math.prod(
            n for n, c in zip(self._outer, self._of_channels, strict=True) if c
        )
        self.images = len(self._series.pages) // self.channels
        size = page.nbytes * self.channels
        if size > SMALL:
            raise UserError(f"images of {size / 1e6:,.0f} MB are more than {SMALL / 1e6:,.0f} MB")
        refuse_bomb(shown(str(path)), path.stat().st_size, size)

    def page(self, number: int, channel: int) -> np.ndarray:
        """(H, W, C) of one page."""
        counted = [n for n, c in zip(self._outer, self._of_channels, strict=True) if not c]
        channels = [n for n, c in zip(self._outer, self._of_channels, strict=True) if c]
        of_image = iter(np.unravel_index(number, counted) if counted else ())
        of_channel = iter(np.unravel_index(channel, channels) if channels else ())
        place = [int(next(of_channel if c else of_image)) for c in self._of_channels]
        row = int(np.ravel_multi_index(place, self._outer)) if place else 0
        page = self._series.pages[row]
        if page is None:
            raise UserError(f"page {row} is missing")
        values = page.asarray()
        order = [self._page_axes.index(axis) for axis in PLANES]
        rest = [n for n in range(values.ndim) if n not in order]
        values = values.transpose([*order, *rest])
        return values.reshape(*values.shape[:2], -1)


_reading = threading.Lock()


@lru_cache(maxsize=4)
def _stack(path: Path, process: int) -> _Stack:
    return _Stack(path)  # of one process: a forked one would share the position in the file


def images_of(path: Path) -> int:
    """How many images a file holds; a UserError says why it holds none."""
    try:
        with _reading:
            return _stack(path, os.getpid()).images
    except UserError:
        raise
    except Exception as error:  # tifffile raises many kinds on damaged files
        raise UserError(" ".join(str(error).split())[:150] or type(error).__name__) from None


def reader() -> Any:
    """The module tifffile; its absence is the user's to mend."""
    try:
        import tifffile
    except ImportError as error:
        fix = 'pip install "vae-dist[tiff]"'
        raise UserError(f"--dataset tiff needs tifffile; {fix}") from error
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what matters is raised
    return tifffile
