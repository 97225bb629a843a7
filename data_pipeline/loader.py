"""Loaders: a split's images as global batches, of which each process gets its part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data_pipeline.batch import Batch
from data_pipeline.order import World, steps_per_epoch

if TYPE_CHECKING:
    from data_pipeline.folder import DataFolder

LOADERS = ("auto", "memory", "stream")
BAD_SHARD_POLICIES = ("fail", "skip")


@dataclass(kw_only=True)
class LoaderConfig:
    """How images are read while training."""

    loader: str = "auto"
    """memory: all images are held; stream: a bounded buffer; auto: by size."""
    memory_limit: float = 2.0
    """auto holds a split in memory up to this many GB of pixels."""
    on_bad_shard: str = "fail"
    """fail: a damaged shard ends the run; skip: it is left out on all ranks and counted."""

    def __post_init__(self) -> None:
        if self.loader not in LOADERS:
            raise ValueError(f"--loader {self.loader}: expected one of {', '.join(LOADERS)}")
        if self.memory_limit < 0:
            raise ValueError(f"--memory-limit {self.memory_limit}: must not be negative")
        if self.on_bad_shard not in BAD_SHARD_POLICIES:
            raise ValueError(
                f"--on-bad-shard {self.on_bad_shard}: "
                f"expected one of {', '.join(BAD_SHARD_POLICIES)}"
            )


class Loader(ABC):
    """A split's images as global batches.

    Attributes
    ----------
    mode : str
        ``"memory"`` or ``"stream"``.
    reason : str
        Why this mode; one line for the log.
    num_images : int
        Images an epoch, over all processes.
    steps_per_epoch : int
        Steps every process takes in an epoch.
    """

    mode: str
    reason: str

    def __init__(self, num_images: int, batch_size: int, world: World) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.world = world
        self.steps_per_epoch = steps_per_epoch(num_images, batch_size)

    @abstractmethod
    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """This process's parts of an epoch's global batches.

        Parameters
        ----------
        epoch : int
            Decides the order.
        start : int
            Step to begin at; what comes before is not read.
        """


def make_loader(
    data: DataFolder,
    split: str,
    config: LoaderConfig,
    world: World,
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    exclude: Collection[str] = frozenset(),
) -> Loader:
    """Make the loader of a split.

    Parameters
    ----------
    data : DataFolder
        From ``open_data``.
    split : str
        ``train``, ``val`` or ``test``.
    config : LoaderConfig
        Which loader, and its settings.
    world : World
        This process, of how many.
    batch_size : int
        Images in a global batch, over all processes.
    seed : int
        With the epoch it decides the order.
    shuffle : bool
        False gives the images in their fixed order.
    exclude : collection of str
        Names of shards to leave out; must be the same on all processes.

    Returns
    -------
    Loader
    """
    from data_pipeline.memory import MemoryLoader

    if batch_size < 1:
        raise ValueError(f"--batch-size {batch_size}: must be at least 1")
    shards = data.manifest.split(split).shards
    unknown = set(exclude) - {
        shard.name for part in data.manifest.splits.values() for shard in part.shards
    }
    assert not unknown, f"shards to exclude that do not exist: {sorted(unknown)}"
    if not any(shard.name not in exclude for shard in shards):
        raise ValueError(f"{data.path}: split {split} has no images to read")
    return MemoryLoader(data.arrays(split, exclude), batch_size, world, seed, shuffle)
