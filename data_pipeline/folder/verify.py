"""Checking a data folder: every fault is named, none is fatal to the check."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.folder.manifest import Shard, fingerprint_of, wids_indexes
from data_pipeline.folder.opening import DataFolder, check_arrays, open_data
from data_pipeline.folder.tars import read_tar
from data_pipeline.load.loader import LoaderConfig
from data_pipeline.order import World
from data_pipeline.remote.reading import is_remote, join, read_small, read_whole

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
        data = open_data(path, config=config)
    except (ValueError, OSError) as error:
        return [str(error)]
    return [
        *_manifest_faults(data),
        *_shard_faults(data),
        *_index_files(data),
        *_stray_files(data),
    ]


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
        fault = _content(data, shard)
        if isinstance(fault, str):
            bad[shard.name] = fault
    return bad


def _manifest_faults(data: DataFolder) -> Iterator[str]:
    manifest = data.manifest
    where = f"{data.path}: manifest"
    if fingerprint_of(manifest.splits) != manifest.fingerprint:
        yield f"{where}: the fingerprint is not that of its shards"
    names: set[str] = set()
    for name, split in manifest.splits.items():
        total = sum(shard.count for shard in split.shards)
        if total != split.count:
            yield f"{where}: {name} has {split.count} images, its shards {total}"
        for shard in split.shards:
            if shard.name in names:
                yield f"{where}: {shard.name} is listed twice"
            names.add(shard.name)
            blocks = -(-shard.count // manifest.block_size)
            if len(shard.offsets) != blocks + 1:
                yield f"{where}: {shard.name} has {len(shard.offsets)} offsets for {blocks} blocks"


def _shard_faults(data: DataFolder) -> Iterator[str]:
    seen: dict[str, list[np.ndarray]] = {}
    for name, split in data.manifest.splits.items():
        counts = np.zeros(data.manifest.num_classes, np.int64)
        whole = True
        for shard in split.shards:
            arrays, faults = _read(data, shard)
            yield from faults
            if arrays is None:
                whole = False
                continue
            seen.setdefault(_CUT_FROM.get(name, name), []).append(arrays.index)
            labels = arrays.labels
            if len(labels) and not -1 <= labels.min() <= labels.max() < len(counts):
                yield f"{data.location(shard)}: labels lie in {labels.min()} to {labels.max()}"
            else:
                counts += np.bincount(labels[labels >= 0], minlength=len(counts))
        if whole and counts.tolist() != split.class_counts:
            yield f"{data.path}: {name}: images by class differ from the manifest's"
    for origin, parts in seen.items():
        index = np.concatenate(parts)
        twice = len(index) - len(np.unique(index))
        if twice:
            yield f"{data.path}: {twice} images of the source's {origin} split occur twice"


def _read(data: DataFolder, shard: Shard) -> tuple[Arrays | None, list[str]]:
    where = data.location(shard)
    content = _content(data, shard)
    if isinstance(content, str):
        return None, [content]
    try:
        parts = list(read_tar(io.BytesIO(content), data.manifest.layout, where))
        arrays = Arrays(*map(np.concatenate, zip(*parts, strict=True)))
        check_arrays(arrays, data.manifest, shard.count, where)
    except Exception as error:  # whatever a foreign tar makes the decoders raise is a fault
        return None, [f"{where}: does not decode ({error})"]
    try:  # once more as the stream loader does: by the offsets and sums of the blocks
        data.read_blocks([(shard, number) for number in range(len(shard.offsets) - 1)])
    except (ValueError, IndexError) as error:
        return arrays, [str(error)]
    return arrays, []


def _content(data: DataFolder, shard: Shard) -> bytes | str:
    """Bytes of a shard, or what is wrong with them."""
    where = data.location(shard)
    try:
        content = read_whole(where, shard, data.config)
    except (OSError, ValueError) as error:
        return f"{where}: cannot be read ({getattr(error, 'strerror', None) or error})"
    if len(content) != shard.bytes:
        return f"{where}: {len(content)} bytes, the manifest says {shard.bytes}"
    if hashlib.sha256(content).hexdigest() != shard.sha256:
        return f"{where}: SHA-256 differs from the manifest's: damaged or changed"
    return content


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
