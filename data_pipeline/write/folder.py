"""Writing a data folder: the shards, their indexes, the manifest last; all or nothing."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.folder.manifest import (
    MANIFEST_NAME,
    MANIFEST_VERSION,
    Manifest,
    Shard,
    Split,
    dump_manifest,
    fingerprint_of,
    parse_manifest,
    wids_indexes,
)
from data_pipeline.write.building import (
    building_site,
    publish,
    restore,
    site_of,
    sync_folder,
    whole_file,
)
from data_pipeline.write.shards import Job, Source, WritingTask, write_all
from data_pipeline.write.splits import fold_rows

if TYPE_CHECKING:
    from data_pipeline.write.config import PrepareConfig

Progress = Callable[[int, int], None]

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
    out = Path(os.path.abspath(out))
    image_shape = _check(source)
    block_size, samples_per_shard = config.sizes(image_shape)
    jobs = _plan(source, config, samples_per_shard)
    settings = {
        **{k: v for k, v in dataclasses.asdict(config).items() if k not in _IMMATERIAL},
        "block_size": block_size,
        "samples_per_shard": samples_per_shard,
    }
    key = _key(source, settings, image_shape)
    present = _present(out, key, config)
    if present is not None and not site_of(out).exists():  # else clear it: a kill left it there
        return present
    with building_site(out) as partial:
        present = _present(out, key, config)
        if present is not None:  # another process wrote it meanwhile
            return present
        build = partial / f"build-{key[:16]}"
        scratch = partial / f"scratch-{key[:16]}"
        try:
            for folder in (build, scratch):
                folder.mkdir(exist_ok=True)
            _check_space(source, image_shape, config, partial)
            task = WritingTask(source, config.layout, block_size, build, scratch)
            written = _write_shards(task, jobs, config.writers, progress)
            manifest = _manifest(source, settings, image_shape, key, jobs, written)
            for name, text in {
                **wids_indexes(manifest),
                MANIFEST_NAME: dump_manifest(manifest),
            }.items():
                with whole_file(build / name, scratch) as file:
                    file.write(text.encode())
            sync_folder(build)
            publish(build, out, partial)
        except OSError as error:
            restore(out, partial)
            shutil.rmtree(partial, ignore_errors=True)
            raise UserError(
                f"{out}: could not be written ({error.strerror or error}); "
                f"{shutil.disk_usage(out.parent).free / 1e6:,.0f} MB are free there; "
                "nothing was left behind"
            ) from error
    return manifest


def _check_space(
    source: Source, shape: tuple[int, int, int], config: PrepareConfig, folder: Path
) -> None:
    """Refuse at once what cannot fit; how far PNGs shrink is not known beforehand."""
    images = sum(len(arrays.labels) for arrays in source.splits.values())
    needed = images * math.prod(shape)
    if config.layout == "block" and needed > shutil.disk_usage(folder).free:
        raise OSError(errno.ENOSPC, f"No space left on device: {needed / 1e6:,.0f} MB are needed")


def _check(source: Source) -> tuple[int, int, int]:
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
            if first.dtype != np.uint8 or first.ndim != 4:
                raise UserError(
                    f"{source.name}: images must be uint8 (n, C, H, W), "
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
        "version": MANIFEST_VERSION,
        "name": source.name,
        "classes": list(source.classes),
        # The same images found in another place are the same.
        "provenance": {k: v for k, v in source.provenance.items() if k != "found"},
        "settings": settings,
        "shape": shape,
    }
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode())
    for name, arrays in sorted(source.splits.items()):
        digest.update(f"{name} {len(arrays.labels)}".encode())
        digest.update(np.ascontiguousarray(arrays.labels).data)
        digest.update(np.ascontiguousarray(arrays.index).data)
        if type(arrays.images) is np.ndarray:  # in memory; what is read lazily has provenance
            digest.update(np.ascontiguousarray(arrays.images).data)
    return digest.hexdigest()


def _present(out: Path, key: str, config: PrepareConfig) -> Manifest | None:
    """What lies in the folder already, if it is just what would be written."""
    path = out / MANIFEST_NAME
    if path.is_file():
        manifest = parse_manifest(path.read_bytes(), str(path))
        if manifest.provenance.get("key") == key:
            return manifest
        if not config.overwrite:
            raise UserError(
                f"{out}: holds {manifest.name}, written from other images or with other "
                "settings; choose another --out, or pass --overwrite True"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists and is not a data folder; choose another --out")
    return None


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
    splits = {}
    for name in ("train", "val", "test"):
        records = [r for job, r in zip(jobs, written, strict=True) if job.split == name]
        counts = [0] * len(source.classes)
        for record in records:
            for label, times in record["sums"]["labels"]:
                if label >= 0:
                    counts[label] += times
        shards = [Shard(**record["shard"]) for record in records]
        splits[name] = Split(
            count=sum(shard.count for shard in shards), class_counts=counts, shards=shards
        )
    sums = [r["sums"] for job, r in zip(jobs, written, strict=True) if job.split == "train"]
    mean, std = [], []
    pixels = sum(s["pixels"] for s in sums)
    for channel in range(image_shape[0]):
        first = sum(s["first"][channel] for s in sums)
        second = sum(s["second"][channel] for s in sums)
        mean.append(first / pixels / 255)
        std.append((second * pixels - first * first) ** 0.5 / pixels / 255)
    return Manifest(
        name=source.name,
        image_shape=image_shape,
        classes=list(source.classes),
        layout=settings["layout"],
        block_size=settings["block_size"],
        splits=splits,
        mean=mean,
        std=std,
        fingerprint=fingerprint_of(splits),
        provenance={"key": key, "settings": settings, "source": dict(source.provenance)},
    )
