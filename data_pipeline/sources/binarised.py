"""Static binarisation: each pixel drawn once, with its grey level as the probability of white."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.philox import draws_at
from data_pipeline.sources.base import SourceData

SPLITS = ("train", "test")
SEED = 0  # of one draw for all: two people's binarised sets are the same set


class BinarisedImages:
    """Images whose pixels are 0 or 255, drawn when they are taken; a slice is an array (n, C, H, W).

    The draw of a pixel follows from the split and the image's position in the source, and from
    nothing else: an image is the same however the set is split, mixed or sharded.

    Parameters
    ----------
    images
        uint8, an array or a lazy sequence of arrays, as `Arrays` holds.
    split : str
        Of the source.
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, images: np.ndarray, split: str) -> None:
        self.images, self.split = images, split

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, C, H, W)."""
        return tuple(self.images.shape)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: slice | np.ndarray) -> np.ndarray:
        levels = self.images[which]
        place = np.arange(len(self))[which]
        size = levels[0].size if len(levels) else 1
        epoch = SPLITS.index(self.split)  # draws of another epoch are other draws
        drawn = draws_at(SEED, "binarise", size, epoch, np.zeros_like(place), place)
        # A level of 255 is above every draw and a level of 0 above none, as draws lie in [0, 1).
        white = drawn.numpy().reshape(levels.shape) * 255 < levels
        return np.where(white, np.uint8(255), np.uint8(0))


def binarised(data: SourceData) -> SourceData:
    """A data set with its pixels drawn as 0 or 255.

    Raises
    ------
    UserError
        If its values are not of 8 bits.
    """
    if not data.values.are_bytes:
        raise UserError(
            f"--binarise: reads grey levels of 8 bits, and {data.name} keeps {data.values.dtype}; "
            "Fix: --dtype uint8"
        )
    splits = {
        name: Arrays(BinarisedImages(part.images, name), part.labels, part.index)  # type: ignore[arg-type]
        for name, part in data.splits.items()
    }
    return replace(data, splits=splits, provenance={**data.provenance, "binarised": True})
