"""Loaders: a split's images as global batches, of which each process gets its part."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from data_pipeline.batch import Batch
from data_pipeline.errors import UserError
from data_pipeline.load.prefetch import prefetch
from data_pipeline.order import World, steps_per_epoch
from data_pipeline.remote.reading import RemoteConfig

if TYPE_CHECKING:
    from data_pipeline.folder import DataFolder

Gather = Callable[[Any], list[Any]]
"""Collects a value from every process, in the order of their ranks."""
LOADERS = ("auto", "memory", "stream")
BAD_SHARD_POLICIES = ("fail", "skip")
DATA_DEVICES = ("cpu", "cuda")


@dataclass(kw_only=True)
class LoaderConfig(RemoteConfig):
    """How images are read while training."""

    loader: str = "auto"
    """memory: all images are held; stream: a bounded buffer; auto: by size."""
    memory_limit: float = 2.0
    """auto holds a split in memory up to this many GB of pixels."""
    workers: int = 0
    """stream: processes that read; 0: a thread. Use some for layout sample (PNGs)."""
    lanes: int = 64
    """stream: parts of an epoch that are read side by side; decides the order."""
    shuffle_window: int = 4
    """stream: blocks of a lane whose images are shuffled together; decides the order."""
    prefetch: int = 2
    """Batches made ready in the background; 0: none."""
    pin_memory: bool = True
    """With a GPU: batches lie in page-locked memory, from which copies do not block."""
    data_device: str = "cpu"
    """memory: where the images are held; cuda holds a small set wholly in GPU memory."""
    on_bad_shard: str = "fail"
    """fail: a damaged shard ends the run; skip: it is left out on all ranks and counted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loader not in LOADERS:
            raise UserError(f"--loader {self.loader}: expected one of {', '.join(LOADERS)}")
        if self.on_bad_shard not in BAD_SHARD_POLICIES:
            raise UserError(
                f"--on-bad-shard {self.on_bad_shard}: "
                f"expected one of {', '.join(BAD_SHARD_POLICIES)}"
            )
        for name, least in (
            ("memory_limit", 0),
            ("workers", 0),
            ("lanes", 1),
            ("shuffle_window", 1),
            ("prefetch", 0),
        ):
            value = getattr(self, name)
            if value < least:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} {value}: must be at least {least}")
        if self.data_device not in DATA_DEVICES:
            raise UserError(
                f"--data-device {self.data_device}: expected one of {', '.join(DATA_DEVICES)}"
            )
        if self.data_device == "cuda" and not torch.cuda.is_available():
            raise UserError("--data-device cuda: no GPU is visible here; Fix: --data-device cpu")
        if self.data_device != "cpu" and self.loader == "stream":
            raise UserError(f"--data-device {self.data_device}: needs --loader memory")


class Loader(ABC):
    """A split's images as global batches.

    Attributes
    ----------
    mode : str
        ``"memory"`` or ``"stream"``.
    reason : str
        Why this mode; for the log.
    num_images : int
        Images an epoch, over all processes.
    steps_per_epoch : int
        Steps every process takes in an epoch.
    excluded : list of str
        Shards that were left out.
    """

    mode: str

    def __init__(
        self, num_images: int, batch_size: int, world: World, config: LoaderConfig, reason: str
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.world = world
        self.config = config
        self.reason = reason
        self.steps_per_epoch = steps_per_epoch(num_images, batch_size)
        self.excluded: list[str] = []

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """This process's parts of an epoch's global batches.

        Parameters
        ----------
        epoch : int
            Decides the order.
        start : int
            Step to begin at; what comes before is not read.

        Yields
        ------
        Batch
            One for each step from `start` on; it may hold no images.
        """
        batches = self.read(epoch, start)
        if self.config.pin_memory and self.data_device == "cpu" and torch.cuda.is_available():
            batches = (batch.pin_memory() for batch in batches)
        if self.in_background and self.config.prefetch:
            batches = prefetch(batches, self.config.prefetch)
        return batches

    @property
    def data_device(self) -> str:
        """Device on which batches come out."""
        return "cpu"

    @property
    def in_background(self) -> bool:
        """Whether batches are made ready by a thread."""
        return True

    @abstractmethod
    def read(self, epoch: int, start: int) -> Iterator[Batch]:
        """The batches, made when asked for."""


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
    gather: Gather | None = None,
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
    gather : callable, optional
        Collects one small value from every process, in the order of their ranks. With it the
        processes of one machine hold the images of the memory loader once between them; all
        of `world` must then call this function together.

    Returns
    -------
    Loader
    """
    from data_pipeline.load.memory import MemoryLoader
    from data_pipeline.load.shared import shared_rows
    from data_pipeline.load.stream import StreamLoader

    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be at least 1")
    shards = data.manifest.split(split).shards
    if all(shard.name in exclude for shard in shards):
        raise UserError(f"{data.path}: split {split} has no images to read")
    mode, reason = _choose(data, split, config)
    loader: Loader
    if mode == "memory":
        if gather is None or world.size == 1 or config.data_device != "cpu":
            arrays = data.rows(split, exclude)
        else:
            arrays, how = shared_rows(data, split, exclude, world, gather)
            reason = f"{reason}; {how}"
        loader = MemoryLoader(arrays, batch_size, world, seed, shuffle, config, reason)
    else:
        loader = StreamLoader(
            data, split, config, world, batch_size, seed, shuffle, exclude, reason
        )
    loader.excluded = sorted(shard.name for shard in shards if shard.name in exclude)
    return loader


def _choose(data: DataFolder, split: str, config: LoaderConfig) -> tuple[str, str]:
    """Which loader, and why. Decided by the manifest alone: alike on all processes."""
    if config.loader != "auto":
        return config.loader, f"{config.loader}: asked for"
    size = data.manifest.splits[split].count * math.prod(data.manifest.image_shape) / 1e9
    if config.data_device != "cpu":
        return "memory", f"memory: asked for by --data-device {config.data_device}"
    mode = "memory" if size <= config.memory_limit else "stream"
    relation = "within" if mode == "memory" else "above"
    return mode, f"{mode}: {size:.3g} GB, {relation} --memory-limit {config.memory_limit:g}"
