"""The loaders of a run; every process skips the same damaged shards."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder
from data_pipeline.folder.verify import find_bad_shards
from data_pipeline.load.base import Loader
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.crop import Crop
from data_pipeline.load.loader import choose, make_loader
from data_pipeline.order import World
from vae_dist.train.settings import Settings, crop_of_loader

SPLITS = ("train", "val")
GPU_SHARE = 0.1
"""Largest part of a GPU's free memory that images take by themselves."""


@dataclass(frozen=True)
class Loaders:
    """What a run reads.

    Attributes
    ----------
    train, val : Loader
    left_out : dict of str to str
        Shards that ``--on-bad-shard skip`` does not read, and what is wrong with each.
    order : dict
        What the order of the images follows from, beside the counters.
    """

    train: Loader
    val: Loader
    left_out: dict[str, str]
    order: dict[str, Any]


def place_data(
    data: DataFolder, config: LoaderConfig, device: torch.device, crop: Crop | None = None
) -> tuple[LoaderConfig, str]:
    """Decide on ``--data-device auto``; all processes must call this, and decide alike.

    Returns
    -------
    LoaderConfig
        With ``cuda`` or ``cpu`` for ``auto``, where there is a GPU.
    str
        What was decided and why; empty where there was nothing to decide.
    """
    if config.data_device != "auto" or device.type != "cuda":
        return config, ""
    if any(choose(data, split, config, crop)[0] == "stream" for split in SPLITS):
        return replace(config, data_device="cpu"), ""
    size = sum(data.manifest.splits[split].count * data.manifest.image_bytes for split in SPLITS)
    free = min(gather_object([torch.cuda.mem_get_info(device)[0]]))
    fits = size <= GPU_SHARE * free
    place, relation = ("on the GPU", "within") if fits else ("not on the GPU", "above")
    told = (
        f"held {place}: {size / 1e9:.3g} GB, {relation} {GPU_SHARE:.0%} of the {free / 1e9:.3g} GB "
        "free there (--data-device auto)"
    )
    if not fits:
        return replace(config, data_device="cpu"), told
    return replace(config, data_device="cuda", loader="memory"), told


def open_loaders(data: DataFolder, settings: Settings, accelerator: Accelerator) -> Loaders:
    """Open both loaders; under ``--on-bad-shard skip`` after every shard was checked.

    Each process checks its share of the shards and all skip what any of them found, so
    that steps and batches stay equal.

    Raises
    ------
    ValueError
        If a split is missing or has no image left.
    """
    world = World(accelerator.process_index, accelerator.num_processes)
    for split in SPLITS:
        if split not in data.manifest.splits:
            raise UserError(f"{data.path}: has no split {split!r}, which training needs")
    crop = crop_of_loader(settings, data.manifest)
    config, where = place_data(data, settings.loader, accelerator.device, crop)
    left_out: dict[str, str] = {}
    if settings.loader.on_bad_shard == "skip":
        found = [find_bad_shards(data, split, world) for split in SPLITS]
        for part in gather_object(found):
            left_out |= part
    train, val = (
        make_loader(
            data,
            split,
            config,
            world,
            batch_size=settings.run.batch_size,
            seed=settings.run.seed,
            shuffle=split == "train",
            exclude=frozenset(left_out),
            crop=crop if split == "train" else None,
            gather=(lambda value: gather_object([value])) if world.size > 1 else None,
        )
        for split in SPLITS
    )
    if where:
        train.reason = f"{train.reason}; {where}"
    order: dict[str, Any] = {
        "data": data.manifest.fingerprint,
        "left out": sorted(left_out),
        "--seed": settings.run.seed,
        "--batch-size": settings.run.batch_size,
        "--loader": train.mode,
    }
    if train.mode == "stream":
        order |= {
            "--lanes": settings.loader.lanes,
            "--shuffle-window": settings.loader.shuffle_window,
        }
    return Loaders(train, val, dict(sorted(left_out.items())), order)
