"""Settings of a data folder that is to be written."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.folder.manifest import LAYOUTS

_BLOCK_BYTES = 1 << 18
_SHARD_BYTES = 1 << 27


@dataclass(kw_only=True)
class PrepareConfig:
    """How a data set is written: where, in which layout, split how."""

    out: Path | None = None
    """Data folder to write; data/NAME if not given."""
    layout: str = "block"
    """block: one webdataset sample is a block of images (fast); sample: one PNG an image."""
    samples_per_shard: int = 0
    """Images in a tar file; 0: as many as fill 128 MB, at most 8192."""
    block_size: int = 0
    """Images in a block, which is read at once; 0: as many as fill 256 KB, at most 256
    (32 in layout sample)."""
    folds: int = 5
    """The official training set is cut in this many folds; one of them is val."""
    fold: int = 0
    """Which fold is val."""
    stratify: bool = True
    """Keep the share of each class equal in all folds."""
    split_seed: int = 42
    """Seed of the folds and of the order in which training images are written."""
    mix: bool = True
    """Write training images in a drawn order, so that neighbours in a shard are unrelated."""
    writers: int = 0
    """Processes that write; 0: one a core. The bytes do not depend on it."""
    overwrite: bool = False
    """Replace a data folder that was written with other settings."""

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UserError(f"--layout {self.layout}: expected one of {', '.join(LAYOUTS)}")
        for name in ("samples_per_shard", "block_size"):
            if getattr(self, name) < 0:
                raise UserError(f"{_flag(name)} {getattr(self, name)}: must be 0 (auto) or more")
        if self.folds < 2:
            raise UserError(f"--folds {self.folds}: must be at least 2")
        if not 0 <= self.fold < self.folds:
            raise UserError(f"--fold {self.fold}: must lie in 0 to {self.folds - 1} (--folds - 1)")
        if not 0 <= self.split_seed < 2**32:
            raise UserError(f"--split-seed {self.split_seed}: must lie in 0 to 2**32 - 1")
        if self.writers < 0:
            raise UserError(f"--writers {self.writers}: must be 0 (one a core) or more")

    def sizes(self, image_shape: tuple[int, int, int]) -> tuple[int, int]:
        """Images in a block and in a shard, for images of this shape."""
        pixels = math.prod(image_shape)
        # PNGs are decoded one by one: large blocks gain nothing.
        limit = 256 if self.layout == "block" else 32
        block = self.block_size or _most(_BLOCK_BYTES // pixels, limit)
        return block, self.samples_per_shard or _most(_SHARD_BYTES // pixels, 8192)


def _most(images: int, limit: int) -> int:
    """The largest power of two up to both, at least 1."""
    return 1 << max(min(images, limit), 1).bit_length() - 1


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
