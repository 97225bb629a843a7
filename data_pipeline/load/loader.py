"""Choosing and making a loader."""

from __future__ import annotations

from collections.abc import Collection

from data_pipeline.errors import UserError
from data_pipeline.folder.opening import DataFolder
from data_pipeline.load.base import Gather, Loader
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.crop import Crop
from data_pipeline.load.memory import MemoryLoader
from data_pipeline.load.shared import shared_rows
from data_pipeline.load.stream import StreamLoader
from data_pipeline.order import World


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
    crop: Crop | None = None,
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
        Names of shards that are not read; must be the same on all processes.
    crop : Crop, optional
        Of layout encoded: crops of the pictures as they are, for training.
    gather : callable, optional
        Collects one small value from every process, in the order of their ranks. With it the
        processes of one machine hold the images of the memory loader once between them; all
        of `world` must then call this function together.

    Returns
    -------
    Loader
    """
    if batch_size < 1:
        raise UserError(f"--batch-size {batch_size}: must be at least 1")
    shards = data.manifest.split(split).shards
    if all(shard.name in exclude for shard in shards):
        raise UserError(f"{data.path}: split {split} has no images to read")
    mode, reason = choose(data, split, config, crop)
    loader: Loader
    if mode == "memory":
        if gather is None or world.size == 1 or config.held_on != "cpu":
            arrays = data.rows(split, exclude)
        else:
            arrays, how = shared_rows(data, split, exclude, world, gather)
            reason = f"{reason}; {how}"
        loader = MemoryLoader(arrays, batch_size, world, seed, shuffle, config, reason)
    else:
        loader = StreamLoader(
            data, split, config, world, batch_size, seed, shuffle, exclude, reason, crop
        )
    loader.excluded = sorted(shard.name for shard in shards if shard.name in exclude)
    return loader


def choose(
    data: DataFolder, split: str, config: LoaderConfig, crop: Crop | None = None
) -> tuple[str, str]:
    """Which loader, and why. Decided by the manifest alone: alike on all processes."""
    if crop is not None:
        if config.loader == "memory" or config.held_on != "cpu":
            raise UserError(
                f"{data.path}: --augment crop cuts from the pictures of layout encoded while they "
                "are read; Fix: --loader stream --data-device cpu, or --augment without crop"
            )
        return "stream", "stream: --augment crop cuts from the pictures as they are"
    if config.loader != "auto":
        return config.loader, f"{config.loader}: asked for"
    size = data.manifest.splits[split].count * data.manifest.image_bytes / 1e9
    if config.held_on != "cpu":
        return "memory", f"memory: asked for by --data-device {config.data_device}"
    mode = "memory" if size <= config.memory_limit else "stream"
    relation = "within" if mode == "memory" else "above"
    return mode, f"{mode}: {size:.3g} GB, {relation} --memory-limit {config.memory_limit:g}"
