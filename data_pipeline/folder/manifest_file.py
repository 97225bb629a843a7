"""``manifest.json``: a manifest's text, its checksum, and what contradicts itself in it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.folder.manifest import BYTES_VERSION, MANIFEST_VERSION, Manifest, Split
from data_pipeline.records import parse_json, read_record
from data_pipeline.values import Values

MAX_MANIFEST_BYTES = 1 << 26
_MAX_STRUCTURES = 1_000_000  # lists and objects; a shard has three, and each costs 60 bytes or more
_REWRITE = "restore it, or write the folder again with vae-dist prepare"


def fingerprint_of(splits: dict[str, Split], values: Values) -> str:
    """SHA-256 over the names and sums of all shards, and what their values mean if not bytes.

    Equal folders have equal fingerprints.
    """
    digest = hashlib.sha256()
    if not values.are_bytes:
        digest.update(f"{values.dtype} {values.scale}\n".encode())
    for name, split in sorted(splits.items()):
        for shard in split.shards:
            digest.update(f"{name} {shard.name} {shard.sha256}\n".encode())
    return digest.hexdigest()


def faults_of(manifest: Manifest) -> Iterator[str]:
    """What contradicts itself in a manifest whose structure is right."""
    if manifest.version > 2 and manifest.checksum != checksum_of(record_of(manifest)):
        yield "was changed after it was written (its checksum is another)"
    if fingerprint_of(manifest.splits, manifest.values) != manifest.fingerprint:
        yield "the fingerprint is not that of its shards"
    for name, split in manifest.splits.items():
        total = sum(shard.count for shard in split.shards)
        if total != split.count:
            yield f"{name} has {split.count} images, its shards {total}"
        counts = split.class_counts
        if len(counts) != manifest.num_classes:
            yield f"{name} counts {len(counts)} classes of {manifest.num_classes}"
        elif min(counts, default=0) < 0 or sum(counts) > total:
            yield f"{name}: class_counts make {sum(counts)} images of {total}"


def record_of(manifest: Manifest) -> dict[str, Any]:
    """The fields that a manifest of its version has."""
    record = dataclasses.asdict(manifest)
    if manifest.version <= BYTES_VERSION:
        del record["dtype"], record["scale"]
    return record


def checksum_of(record: dict[str, Any]) -> str:
    """SHA-256 over all fields of a manifest but its checksum."""
    rest = {name: value for name, value in record.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sealed(manifest: Manifest) -> Manifest:
    """The manifest with its checksum."""
    return dataclasses.replace(manifest, checksum=checksum_of(record_of(manifest)))


def dump_manifest(manifest: Manifest) -> str:
    """The text of ``manifest.json``; equal manifests give equal texts."""
    return json.dumps(record_of(manifest), indent=1, sort_keys=True) + "\n"


def parse_manifest(text: str | bytes, where: str, *, trusted: bool = True) -> Manifest:
    """Read ``manifest.json``; whatever it asks for later was compared with what it can hold.

    Parameters
    ----------
    text : str or bytes
        Its content.
    where : str
        Path or address, for messages.
    trusted : bool
        False lets what `faults_of` finds pass, for a caller that tells of it.

    Raises
    ------
    UserError
        Names the field that is of a wrong type or value, or contradicts another.
    """
    if isinstance(text, str):
        text = text.encode()
    if len(text) > MAX_MANIFEST_BYTES or text.count(b"[") + text.count(b"{") > _MAX_STRUCTURES:
        raise UserError(f"{where}: larger than a manifest can be; {_REWRITE}")
    record = parse_json(text, where, fix=_REWRITE)
    version = record.get("version")
    if not isinstance(version, int) or version < 1:
        raise UserError(f"{where}: not a manifest of vae-dist: it has no version")
    if version > MANIFEST_VERSION:
        raise UserError(
            f"{where}: manifest version {str(version)[:20]} is newer than this program reads "
            f"({MANIFEST_VERSION}); update vae-dist"
        )
    splits = record.get("splits")
    if isinstance(splits, dict):
        record["splits"] = dict(sorted(splits.items(), key=_split_order))
    manifest = read_record(Manifest, record, where, fix=_REWRITE)
    fault = next(faults_of(manifest), None)
    if trusted and fault is not None:
        raise UserError(f"{where}: {fault}; {_REWRITE}")
    return manifest


def _split_order(item: tuple[str, Any]) -> tuple[int, str]:
    name = item[0]
    return ("train", "val", "test").index(name) if name in ("train", "val", "test") else 3, name
