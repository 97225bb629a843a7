"""Settings of a data folder that is to be written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from data_pipeline.checks import AtLeast, OneOf, Within, check_fields
from data_pipeline.errors import UserError
from data_pipeline.folder.manifest import LAYOUTS

_BLOCK_BYTES = 1 << 18
_SHARD_BYTES = 1 << 27


@dataclass(kw_only=True)
class PrepareConfig:
    """How a data set is written: where, in which layout, split how."""

    out: Path | None = None
    """Data folder to write; data/NAME if not given."""
    layout: Annotated[str, OneOf(*LAYOUTS)] = "block"
    """block: one webdataset sample is a block of images (fast); sample: one PNG an image;
    encoded: the JPEG and PNG files as they are, of any size, brought to --image-size when read."""
    samples_per_shard: Annotated[int, AtLeast(0)] = 0
    """Images in a tar file; 0: as many as fill 128 MB, at most 8192."""
    block_size: Annotated[int, AtLeast(0)] = 0
    """Images in a block, which is read at once; 0: as many as fill 256 KB, at most 256
    (32 in layouts sample and encoded)."""
    folds: Annotated[int, AtLeast(2)] = 5
    """The official training set is cut in this many folds; one of them is val."""
    fold: int = 0
    """Which fold is val."""
    stratify: bool = True
    """Keep the share of each class equal in all folds."""
    split_seed: Annotated[int, Within(0, 2**32 - 1)] = 42
    """Seed of the folds and of the order in which training images are written."""
    mix: bool = True
    """Write training images in a drawn order, so that neighbours in a shard are unrelated."""
    writers: Annotated[int, AtLeast(0)] = 0
    """Processes that write; 0: one a core. The bytes do not depend on it."""
    overwrite: bool = False
    """Replace a data folder that was written with other settings."""

    def __post_init__(self) -> None:
        check_fields(self)
        if not 0 <= self.fold < self.folds:
            raise UserError(f"--fold {self.fold}: must lie in 0 to {self.folds - 1} (--folds - 1)")

    def sizes(
        self, image_shape: tuple[int, int, int], value_bytes: int = 1, encoded_bytes: int = 0
    ) -> tuple[int, int]:
        """Images in a block and in a shard, for images of this shape, type and mean file size."""
        size = math.prod(image_shape) * value_bytes
        # PNGs are decoded one by one: large blocks gain nothing.
        limit = 256 if self.layout == "block" else 32
        block = self.block_size or _most(_BLOCK_BYTES // size, limit)
        return block, self.samples_per_shard or _most(_SHARD_BYTES // (encoded_bytes or size), 8192)


def _most(images: int, limit: int) -> int:
    """The largest power of two up to both, at least 1."""
    return 1 << max(min(images, limit), 1).bit_length() - 1
