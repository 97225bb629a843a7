"""The loaders of a run; every process skips the same damaged shards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder
from data_pipeline.folder.verify import find_bad_shards
from data_pipeline.load.base import Loader
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from vae_dist.train.settings import Settings

SPLITS = ("train", "val")


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
    left_out: dict[str, str] = {}
    if settings.loader.on_bad_shard == "skip":
        found = [find_bad_shards(data, split, world) for split in SPLITS]
        for part in gather_object(found):
            left_out |= part
    train, val = (
        make_loader(
            data,
            split,
            settings.loader,
            world,
            batch_size=settings.run.batch_size,
            seed=settings.run.seed,
            shuffle=split == "train",
            exclude=frozenset(left_out),
            gather=(lambda value: gather_object([value])) if world.size > 1 else None,
        )
        for split in SPLITS
    )
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
