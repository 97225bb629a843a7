"""What was written: ``manifest.json``, the versioned description of a data folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from data_pipeline.errors import UserError

MANIFEST_NAME = "manifest.json"
MANIFEST_VERSION = 2  # 1 had no crc32; it is read still
LAYOUTS = ("block", "sample")


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file.

    Attributes
    ----------
    name : str
        File name within the folder.
    count : int
        Images in it.
    bytes : int
        Size of the file.
    sha256 : str
        Of the file.
    offsets : list of int
        Where each block starts in the file, and last where the last block ends. A block is
        `block_size` images (the last of a shard may be shorter), in either layout.
    crc32 : list of int
        Of each block's bytes; empty in folders of version 1.
    """

    name: str
    count: int
    bytes: int
    sha256: str
    offsets: list[int]
    crc32: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split: how many images, how many of each class, and the shards in order."""

    count: int
    class_counts: list[int]
    shards: list[Shard]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of a data folder; see ``docs/data.md`` for every field.

    Attributes
    ----------
    name : str
        Name of the data set.
    image_shape : tuple of int
        ``(C, H, W)``.
    classes : list of str
        Names of the classes; a label indexes it. Empty where the set has no labels.
    layout : str
        ``"block"`` or ``"sample"``.
    block_size : int
        Images in a block.
    splits : dict of str to Split
        ``train``, ``val``, ``test``.
    mean, std : list of float
        By channel over the train split, of pixels scaled to [0, 1].
    fingerprint : str
        SHA-256 over the names and SHA-256 sums of all shards.
    provenance : dict
        Where the images came from, and the settings that wrote them.
    version : int
        Of the format.
    """

    name: str
    image_shape: tuple[int, int, int]
    classes: list[str]
    layout: str
    block_size: int
    splits: dict[str, Split]
    mean: list[float]
    std: list[float]
    fingerprint: str
    provenance: dict[str, Any] = field(default_factory=dict)
    version: int = MANIFEST_VERSION

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def split(self, name: str) -> Split:
        """The split of that name, or a ValueError that lists those there are."""
        if name not in self.splits:
            raise UserError(f"no split {name!r} in {self.name}; it has {', '.join(self.splits)}")
        return self.splits[name]


def fingerprint_of(splits: dict[str, Split]) -> str:
    """SHA-256 over the names and sums of all shards: equal folders have equal fingerprints."""
    digest = hashlib.sha256()
    for name, split in sorted(splits.items()):
        for shard in split.shards:
            digest.update(f"{name} {shard.name} {shard.sha256}\n".encode())
    return digest.hexdigest()


def wids_indexes(manifest: Manifest) -> dict[str, str]:
    """Names and texts of the index files in webdataset's wids format, one a split."""
    indexes = {}
    for name, split in manifest.splits.items():
        blocks = [len(shard.offsets) - 1 for shard in split.shards]
        samples = blocks if manifest.layout == "block" else [s.count for s in split.shards]
        record = {
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "name": f"{manifest.name}-{name}",
            "shardlist": [
                {"url": shard.name, "nsamples": count, "filesize": shard.bytes}
                for shard, count in zip(split.shards, samples, strict=True)
            ],
        }
        indexes[f"{name}.wids.json"] = json.dumps(record, indent=1, sort_keys=True) + "\n"
    return indexes


def dump_manifest(manifest: Manifest) -> str:
    """The text of ``manifest.json``; equal manifests give equal texts."""
    return json.dumps(dataclasses.asdict(manifest), indent=1, sort_keys=True) + "\n"


def parse_manifest(text: str | bytes, where: str) -> Manifest:
    """Read ``manifest.json``.

    Parameters
    ----------
    text : str or bytes
        Its content.
    where : str
        Path or address, for messages.
    """
    try:
        record = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error}); write the folder anew") from error
    version = record.get("version") if isinstance(record, dict) else None
    if not isinstance(version, int):
        raise UserError(f"{where}: not a manifest of vae-dist: it has no version")
    if version > MANIFEST_VERSION:
        raise UserError(
            f"{where}: manifest version {version} is newer than this program reads "
            f"({MANIFEST_VERSION}); update vae-dist"
        )
    try:
        return _manifest_of(record)
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{where}: manifest is damaged ({error!r}); write the folder anew"
        ) from error


def _split_order(item: tuple[str, Any]) -> tuple[int, str]:
    name = item[0]
    return ("train", "val", "test").index(name) if name in ("train", "val", "test") else 3, name


def _manifest_of(record: dict[str, Any]) -> Manifest:
    splits = {
        name: Split(
            count=split["count"],
            class_counts=split["class_counts"],
            shards=[Shard(**shard) for shard in split["shards"]],
        )
        for name, split in sorted(record["splits"].items(), key=_split_order)
    }
    channels, height, width = record["image_shape"]
    return Manifest(
        name=record["name"],
        image_shape=(channels, height, width),
        classes=record["classes"],
        layout=record["layout"],
        block_size=record["block_size"],
        splits=splits,
        mean=record["mean"],
        std=record["std"],
        fingerprint=record["fingerprint"],
        provenance=record["provenance"],
        version=record["version"],
    )
