"""Settings of a data folder that is to be written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from data_pipeline.manifest import LAYOUTS


@dataclass(kw_only=True)
class PrepareConfig:
    """How a data set is written: where, in which layout, split how."""

    out: Path | None = None
    """Data folder to write; data/NAME if not given."""
    layout: str = "block"
    """block: one webdataset sample is a block of images (fast); sample: one PNG an image."""
    samples_per_shard: int = 8192
    """Images in a tar file."""
    block_size: int = 256
    """Images in a block: what is read at once."""
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
            raise ValueError(f"--layout {self.layout}: expected one of {', '.join(LAYOUTS)}")
        for name in ("samples_per_shard", "block_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{_flag(name)} {getattr(self, name)}: must be at least 1")
        if self.folds < 2:
            raise ValueError(f"--folds {self.folds}: must be at least 2")
        if not 0 <= self.fold < self.folds:
            raise ValueError(f"--fold {self.fold}: must lie in 0 to {self.folds - 1} (--folds - 1)")
        if not 0 <= self.split_seed < 2**32:
            raise ValueError(f"--split-seed {self.split_seed}: must lie in 0 to 2**32 - 1")
        if self.writers < 0:
            raise ValueError(f"--writers {self.writers}: must be 0 (one a core) or more")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
