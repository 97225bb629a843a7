"""Writing a data folder: the shards, their indexes, the manifest last; all or nothing."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.errors import UserError, files_of_user, reason_of
from data_pipeline.files import sync, whole_file
from data_pipeline.folder.manifest import (
    BYTES_VERSION,
    MANIFEST_NAME,
    MANIFEST_VERSION,
    NAMES_NAME,
    Manifest,
    Shard,
    Split,
)
from data_pipeline.folder.manifest_file import dump_manifest, fingerprint_of, sealed
from data_pipeline.folder.wids import wids_indexes
from data_pipeline.redact import scrubbed
from data_pipeline.values import Values
from data_pipeline.write.building import (
    building_site,
    publish,
    restore,
    site_of,
)
from data_pipeline.write.destination import check_place, free_words, present_in
from data_pipeline.write.shards import Job, Source, Sums, WritingTask, write_all
from data_pipeline.write.splits import fold_rows

if TYPE_CHECKING:
    from data_pipeline.write.config import PrepareConfig

Progress = Callable[[int, int], None]

_BYTES_VERSION = 2  # of the shards' bytes, which version 3 of the manifest left alone
# Settings that do not change what is written.
_IMMATERIAL = {"out", "writers", "overwrite"}


def write_folder(
    source: Source, out: Path, config: PrepareConfig, progress: Progress | None = None
) -> Manifest:
    """Write a data folder.

    Parameters
    ----------
    source : Source
        Splits ``train`` and, where there is one, ``test``.
    out : Path
        The folder. If it holds the same data already, nothing is written.
    config : PrepareConfig
        Layout and split.
    progress : callable, optional
        Called with images written and images in all.

    Returns
    -------
    Manifest
        Of the folder.
    """
    asked, out = out, check_place(out)
    values = _values(source)
    image_shape = _check(source, values)
    encoded = _mean_bytes(source) if config.layout == "encoded" else 0
    block_size, samples_per_shard = config.sizes(image_shape, values.size, encoded)
    jobs = _plan(source, config, samples_per_shard)
    settings = {
        **{k: v for k, v in dataclasses.asdict(config).items() if k not in _IMMATERIAL},
        "block_size": block_size,
        "samples_per_shard": samples_per_shard,
    }
    key = _key(source, settings, image_shape)
    present = present_in(out, key, config)
    if present is not None and not site_of(out).exists():  # else clear it: a kill left it there
        return present
    with files_of_user(f"--out {asked}: cannot be written"), building_site(out) as partial:
        present = present_in(out, key, config)
        if present is not None:  # another process wrote it meanwhile
            return present
        build = partial / f"build-{key[:16]}"
        scratch = partial / f"scratch-{key[:16]}"
        try:
            for folder in (build, scratch):
                folder.mkdir(exist_ok=True)
            _check_space(source, image_shape, config, partial)
            task = WritingTask(source, config.layout, block_size, build, scratch, values)
            written = _write_shards(task, jobs, config.writers, progress)
            manifest = _manifest(source, settings, image_shape, key, jobs, written)
            for name, text in {
                **_names(source),
                **wids_indexes(manifest),
                MANIFEST_NAME: dump_manifest(manifest),
            }.items():
                with whole_file(build / name, scratch) as file:
                    file.write(text.encode())
            sync(build)
            publish(build, out, partial)
        except OSError as error:
            restore(out, partial)
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(
                f"{asked}: could not be written ({reason_of(error)}); {free_words(out.parent)}"
                "nothing was left behind"
            ) from error
    return manifest


def _names(source: Source) -> dict[str, str]:
    """The file of the images' names in the source, by its splits and their positions there."""
    names: Mapping[str, Sequence[str]] = getattr(source, "names", {})
    lines = [
        json.dumps({"split": split, "index": int(index), "name": name})
        for split, known in names.items()
        for index, name in zip(source.splits[split].index, known, strict=True)
    ]
    return {NAMES_NAME: "\n".join(lines) + "\n"} if lines else {}


def _mean_bytes(source: Source) -> int:
    """Mean size of the files that layout encoded keeps."""
    total = images = 0
    for part in source.splits.values():
        if not hasattr(part.images, "encoded_bytes"):
            raise UserError(
                f"--layout encoded: keeps JPEG and PNG files, and {source.name} has none; "
                "Fix: --layout block"
            )
        total += part.images.encoded_bytes
        images += len(part.labels)
    return -(-total // images)


def _values(source: Source) -> Values:
    """What the source's stored values mean; bytes, where it does not say."""
    values: Values = getattr(source, "values", Values())
    return values


def _check_space(
    source: Source, shape: tuple[int, int, int], config: PrepareConfig, folder: Path
) -> None:
    """Refuse at once what cannot fit; how far PNGs shrink is not known beforehand."""
    images = sum(len(arrays.labels) for arrays in source.splits.values())
    needed = images * math.prod(shape) * _values(source).size
    if config.layout == "block" and needed > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, f"No space left on device: {needed / 1e6:,.0f} MB are needed")


def _check(source: Source, values: Values) -> tuple[int, int, int]:
    if "train" not in source.splits or len(source.splits["train"].labels) == 0:
        raise UserError(f"{source.name}: no training images")
    shapes = set()
    for name, arrays in source.splits.items():
        counts = {len(arrays.images), len(arrays.labels), len(arrays.index)}
        if len(counts) != 1:
            raise UserError(f"{source.name}: {name} has unequal counts {sorted(counts)}")
        labels = np.asarray(arrays.labels)
        if len(labels) and not -1 <= labels.min() <= labels.max() < max(len(source.classes), 0):
            raise UserError(
                f"{source.name}: labels of {name} lie in {labels.min()} to {labels.max()}, "
                f"but there are {len(source.classes)} classes"
            )
        if counts != {0}:
            first = arrays.images[:1]
            if first.dtype != values.numpy or first.ndim != 4:
                raise UserError(
                    f"{source.name}: images must be {values.dtype} (n, C, H, W), "
                    f"not {first.dtype} {first.shape}"
                )
            shapes.add(tuple(first.shape[1:]))
    if len(shapes) != 1:
        raise UserError(f"{source.name}: images differ in shape: {sorted(shapes)}")
    return shapes.pop()


def _plan(source: Source, config: PrepareConfig, size: int) -> list[Job]:
    train, val = fold_rows(np.asarray(source.splits["train"].labels), config)
    rows = {"train": ("train", train), "val": ("train", val)}
    if "test" in source.splits:
        rows["test"] = ("test", np.arange(len(source.splits["test"].labels)))
    return [
        Job(split, f"{split}-{number:06d}.tar", source_split, which[start : start + size])
        for split, (source_split, which) in rows.items()
        for number, start in enumerate(range(0, len(which), size))
    ]


def _key(source: Source, settings: dict[str, Any], shape: tuple[int, int, int]) -> str:
    """What decides the bytes of the folder, as one hash."""
    facts = {
        "version": _BYTES_VERSION,
        "name": source.name,
        "classes": list(source.classes),
        # The same images found in another place are the same; "pixels" says what "types" says.
        "provenance": {k: v for k, v in source.provenance.items() if k not in ("found", "types")},
        "settings": settings,
        "shape": shape,
    }
    values = _values(source)
    if not values.are_bytes:
        facts["values"] = [values.dtype, values.scale]
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, arrays in sorted(source.splits.items()):
        digest.update(f"{name} {len(arrays.labels)}".encode())
        digest.update(np.ascontiguousarray(arrays.labels).data)
        digest.update(np.ascontiguousarray(arrays.index).data)
        if type(arrays.images) is np.ndarray:  # in memory; what is read lazily has provenance
            digest.update(np.ascontiguousarray(arrays.images).data)
    return digest.hexdigest()


def _write_shards(
    task: WritingTask, jobs: list[Job], writers: int, progress: Progress | None
) -> list[dict[str, Any]]:
    records = {job.name: task.done(job) for job in jobs}
    missing = [job for job in jobs if records[job.name] is None]
    total = sum(len(job.rows) for job in jobs)
    finished = total - sum(len(job.rows) for job in missing)
    for job, record in write_all(task, missing, writers):
        records[job.name] = record
        finished += len(job.rows)
        if progress is not None:
            progress(finished, total)
    return [record for record in records.values() if record is not None]


def _manifest(
    source: Source,
    settings: dict[str, Any],
    image_shape: tuple[int, int, int],
    key: str,
    jobs: list[Job],
    written: list[dict[str, Any]],
) -> Manifest:
    splits, values = {}, _values(source)
    for name in ("train", "val", "test"):
        records = [r for job, r in zip(jobs, written, strict=True) if job.split == name]
        sums = Sums.of((record["sums"] for record in records), values)
        shards = [Shard(**record["shard"]) for record in records]
        splits[name] = Split(
            count=sum(shard.count for shard in shards),
            class_counts=sums.by_class(len(source.classes)),
            shards=shards,
        )
        if name == "train":
            mean, std = sums.mean_and_std()
    return sealed(
        Manifest(
            name=source.name,
            image_shape=image_shape,
            classes=list(source.classes),
            layout=settings["layout"],
            block_size=settings["block_size"],
            splits=splits,
            mean=mean,
            std=std,
            fingerprint=fingerprint_of(splits, values),
            version=BYTES_VERSION if values.are_bytes else MANIFEST_VERSION,
            dtype=values.dtype,
            scale=values.scale,
            provenance={
                "key": key,
                "settings": settings,
                "source": scrubbed(dict(source.provenance)),
            },
        )
    )
