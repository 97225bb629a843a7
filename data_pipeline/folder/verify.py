"""Checking a data folder: every fault is named, none is fatal to the check."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder, open_data
from data_pipeline.folder.manifest_file import faults_of
from data_pipeline.folder.wids import wids_indexes
from data_pipeline.load.config import LoaderConfig
from data_pipeline.order import World
from data_pipeline.redact import scrub
from data_pipeline.remote.reading import is_remote, join, read_small
from data_pipeline.write.shards import Sums

# Which of the source's splits a split was cut from: no image may be in two of them.
_CUT_FROM = {"train": "train", "val": "train", "test": "test"}


def verify(path: str, config: LoaderConfig | None = None) -> list[str]:
    """Check a data folder against its manifest.

    Parameters
    ----------
    path : str
        The folder, or its address.
    config : LoaderConfig, optional
        How to read it.

    Returns
    -------
    list of str
        The faults, each naming the file; empty if there is none.
    """
    try:
        data = open_data(path, config=config, trusted=False)
    except UserError as error:
        return [str(error)]
    faults = [
        *(f"{data.path}: manifest: {fault}" for fault in faults_of(data.manifest)),
        *_shard_faults(data),
        *_index_files(data),
        *_stray_files(data),
    ]
    return [scrub(fault) for fault in faults]


def find_bad_shards(data: DataFolder, split: str, world: World) -> dict[str, str]:
    """This rank's share of the damaged shards of a split.

    Every rank reads some of the shards; the union over all ranks is what ``make_loader``
    takes as `exclude` on each of them.

    Returns
    -------
    dict of str to str
        Names of the damaged shards, and what is wrong with each.
    """
    bad = {}
    for shard in data.manifest.split(split).shards[world.rank :: world.size]:
        try:
            for _ in data.blocks_of(shard):
                pass
        except UserError as error:
            bad[shard.name] = str(error)
    return bad


def _shard_faults(data: DataFolder) -> Iterator[str]:
    """Read every block: what does not decode, and what the manifest says wrongly of the images."""
    manifest = data.manifest
    seen: dict[str, list[np.ndarray]] = {}
    for name, split in manifest.splits.items():
        sums = Sums(manifest.values)
        whole = True
        for shard in split.shards:
            try:
                for block in data.blocks_of(shard):
                    sums.add(block)
                    seen.setdefault(_CUT_FROM.get(name, name), []).append(block.index)
            except UserError as error:
                whole = False
                yield str(error)
        if not whole:
            continue
        if sums.by_class(manifest.num_classes) != split.class_counts:
            yield f"{data.path}: {name}: images by class differ from the manifest's"
        if name == "train" and sums.pixels:
            for field, found in zip(("mean", "std"), sums.mean_and_std(), strict=True):
                if not np.allclose(found, getattr(manifest, field), rtol=1e-9, atol=1e-12):
                    yield f"{data.path}: {field} of the images differs from the manifest's"
    for origin, parts in seen.items():
        index = np.concatenate(parts)
        twice = len(index) - len(np.unique(index))
        if twice:
            yield f"{data.path}: {twice} images of the source's {origin} split occur twice"


def _index_files(data: DataFolder) -> Iterator[str]:
    for name, text in wids_indexes(data.manifest).items():
        where = join(data.path, name)
        try:
            same = read_small(where, data.config) == text.encode()
        except (OSError, ValueError):
            same = data.manifest.version == 1
        if not same:
            yield f"{where}: missing, or not the index of these shards"


def _stray_files(data: DataFolder) -> Iterator[str]:
    if is_remote(data.path):
        return
    listed = {shard.name for split in data.manifest.splits.values() for shard in split.shards}
    for file in sorted(Path(data.path).glob("*.tar")):
        if file.name not in listed:
            yield f"{file}: is not in the manifest"
