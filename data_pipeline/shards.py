"""Writing a data folder: shards by several processes, the manifest last, all or nothing.

Everything is built in ``.NAME.partial/`` beside the folder and renamed into place when it
is whole. A shard counts as done once its record lies beside it, so that a run that was
killed goes on with the shards that are missing.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import json
import mmap
import multiprocessing
import os
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.manifest import (
    MANIFEST_NAME,
    MANIFEST_VERSION,
    Manifest,
    Shard,
    Split,
    dump_manifest,
    fingerprint_of,
    parse_manifest,
)
from data_pipeline.splits import fold_rows
from data_pipeline.tars import write_tar

if TYPE_CHECKING:
    from data_pipeline.prepare import PrepareConfig

Progress = Callable[[int, int], None]

# Settings that do not change what is written.
_IMMATERIAL = {"out", "writers", "overwrite"}
_IMAGES_WORTH_A_PROCESS = 4096


class Source(Protocol):
    """What is written: a data set's official splits."""

    @property
    def name(self) -> str: ...
    @property
    def splits(self) -> Mapping[str, Arrays]: ...
    @property
    def classes(self) -> Sequence[str]: ...
    @property
    def provenance(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class _Job:
    """One shard to write: rows of one of the source's splits."""

    split: str
    name: str
    source_split: str
    rows: np.ndarray


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
    jobs = _plan(source, config)
    settings = {
        name: value for name, value in dataclasses.asdict(config).items() if name not in _IMMATERIAL
    }
    key = _key(source, settings, image_shape)
    present = _present(out, key, config)
    if present is not None:
        return present
    out.parent.mkdir(parents=True, exist_ok=True)
    with _locked(out.parent / f".{out.name}.partial") as partial:
        if (partial / "old").exists() and not out.exists():  # killed while publishing
            os.rename(partial / "old", out)
        present = _present(out, key, config)
        if present is not None:  # another process wrote it meanwhile
            return present
        build = partial / f"build-{key[:16]}"
        records = partial / f"records-{key[:16]}"
        try:
            written = _write_shards(source, jobs, config, build, records, progress)
            manifest = _manifest(source, settings, image_shape, key, jobs, written)
            write_whole(build / MANIFEST_NAME, dump_manifest(manifest).encode())
            _sync_folder(build)
            _publish(build, out, partial)
        except OSError as error:
            shutil.rmtree(partial, ignore_errors=True)
            raise ValueError(
                f"{out}: could not be written ({error.strerror or error}); "
                f"{shutil.disk_usage(out.parent).free / 1e6:.0f} MB are free there; "
                "nothing was left behind"
            ) from error
    return manifest


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that it exists whole or not at all."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(beside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def _check(source: Source) -> tuple[int, int, int]:
    if "train" not in source.splits or len(source.splits["train"].labels) == 0:
        raise ValueError(f"{source.name}: no training images")
    shapes = set()
    for name, arrays in source.splits.items():
        counts = {len(arrays.images), len(arrays.labels), len(arrays.index)}
        if len(counts) != 1:
            raise ValueError(f"{source.name}: {name} has unequal counts {sorted(counts)}")
        labels = np.asarray(arrays.labels)
        if len(labels) and not -1 <= labels.min() <= labels.max() < max(len(source.classes), 0):
            raise ValueError(
                f"{source.name}: labels of {name} lie in {labels.min()} to {labels.max()}, "
                f"but there are {len(source.classes)} classes"
            )
        if counts != {0}:
            first = arrays.images[:1]
            if first.dtype != np.uint8 or first.ndim != 4:
                raise ValueError(
                    f"{source.name}: images must be uint8 (n, C, H, W), "
                    f"not {first.dtype} {first.shape}"
                )
            shapes.add(tuple(first.shape[1:]))
    if len(shapes) != 1:
        raise ValueError(f"{source.name}: images differ in shape: {sorted(shapes)}")
    return shapes.pop()


def _plan(source: Source, config: PrepareConfig) -> list[_Job]:
    train, val = fold_rows(np.asarray(source.splits["train"].labels), config)
    rows = {"train": ("train", train), "val": ("train", val)}
    if "test" in source.splits:
        rows["test"] = ("test", np.arange(len(source.splits["test"].labels)))
    size = config.samples_per_shard
    return [
        _Job(split, f"{split}-{number:06d}.tar", source_split, which[start : start + size])
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
            raise ValueError(
                f"{out}: holds {manifest.name}, written from other images or with other "
                "settings; choose another --out, or pass --overwrite True"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out}: exists and is not a data folder; choose another --out")
    return None


@contextmanager
def _locked(partial: Path) -> Iterator[Path]:
    """The building site, held by one process at a time and cleared away when done."""
    while True:
        partial.mkdir(exist_ok=True)
        try:
            handle = open(partial / "lock", "wb")  # noqa: SIM115
        except FileNotFoundError:
            continue
        with handle:
            fcntl.lockf(handle, fcntl.LOCK_EX)  # of this process: children do not inherit it
            try:
                ours = os.path.samestat(os.fstat(handle.fileno()), os.stat(partial / "lock"))
            except FileNotFoundError:
                ours = False
            if ours:
                yield partial
                shutil.rmtree(partial, ignore_errors=True)
                return


def _write_shards(
    source: Source,
    jobs: list[_Job],
    config: PrepareConfig,
    build: Path,
    records: Path,
    progress: Progress | None,
) -> list[dict[str, Any]]:
    for folder in (build, records):
        folder.mkdir(exist_ok=True)
    written: dict[str, dict[str, Any] | None]
    written = {job.name: _done(job, build, records) for job in jobs}
    missing = [job for job in jobs if written[job.name] is None]
    total = sum(len(job.rows) for job in jobs)
    finished = total - sum(len(job.rows) for job in missing)
    task = _Task(source, config.layout, config.block_size, build, records)
    for job, record in _run(task, missing, config.writers):
        written[job.name] = record
        finished += len(job.rows)
        if progress is not None:
            progress(finished, total)
    return [done for job in jobs if (done := written[job.name]) is not None]


def _done(job: _Job, build: Path, records: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((records / f"{job.name}.json").read_bytes())
        whole = (build / job.name).stat().st_size == record["shard"]["bytes"]
    except (OSError, ValueError):
        return None
    return record if whole else None


@dataclass(frozen=True)
class _Task:
    """What every writing process needs to know."""

    source: Source
    layout: str
    block_size: int
    build: Path
    records: Path

    def write(self, job: _Job) -> dict[str, Any]:
        """Write one shard, then its record."""
        arrays = self.source.splits[job.source_split]
        sums = _Sums()
        path = self.build / job.name
        beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with open(beside, "wb") as file:
            blocks = map(sums.add, _blocks(arrays, job.rows, self.block_size))
            offsets = write_tar(file, blocks, self.layout, job.name.removesuffix(".tar"))
            file.flush()
            os.fsync(file.fileno())
        shard = _described(beside, job.name, len(job.rows), offsets)
        os.replace(beside, path)
        record = {"shard": dataclasses.asdict(shard), "sums": sums.record()}
        write_whole(self.records / f"{job.name}.json", json.dumps(record).encode())
        return record


def _run(task: _Task, jobs: list[_Job], writers: int) -> Iterator[tuple[_Job, dict[str, Any]]]:
    """Write the jobs' shards, by several processes where that pays, in any order."""
    images = sum(len(job.rows) for job in jobs)
    if writers == 0:
        writers = min(len(os.sched_getaffinity(0)), images // _IMAGES_WORTH_A_PROCESS)
    writers = min(writers, len(jobs))
    if writers <= 1:
        for job in jobs:
            yield job, task.write(job)
        return
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if "fork" in methods else "spawn")
    with ProcessPoolExecutor(writers, context, _begin, (task, os.getpid())) as pool:
        futures = {pool.submit(_write_job, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


_task: _Task  # of a writing process, set once when it begins


def _begin(task: _Task, parent: int) -> None:
    global _task
    _task = task
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Leave no orphan behind when the parent is killed."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _write_job(job: _Job) -> dict[str, Any]:
    return _task.write(job)


def _blocks(arrays: Arrays, rows: np.ndarray, block_size: int) -> Iterator[Arrays]:
    for start in range(0, len(rows), block_size):
        which = rows[start : start + block_size]
        yield Arrays(
            _take(arrays.images, which),
            np.asarray(arrays.labels[which], np.int64),
            np.asarray(arrays.index[which], np.int64),
        )


def _take(images: Any, rows: np.ndarray) -> np.ndarray:
    if isinstance(images, np.ndarray):
        return images[rows]
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return np.concatenate([images[int(run[0]) : int(run[-1]) + 1] for run in runs])


class _Sums:
    """Exact sums over a shard: of pixels and their squares by channel, of labels."""

    def __init__(self) -> None:
        self.pixels = 0
        self.first: list[int] = []
        self.second: list[int] = []
        self.labels: dict[int, int] = {}

    def add(self, block: Arrays) -> Arrays:
        """Count a block in, and hand it on."""
        count, channels, height, width = block.images.shape
        self.pixels += count * height * width
        if not self.first:
            self.first, self.second = [0] * channels, [0] * channels
        for channel in range(channels):
            values = block.images[:, channel]
            self.first[channel] += int(values.sum(dtype=np.uint64))
            squares = np.multiply(values, values, dtype=np.uint16)
            self.second[channel] += int(squares.sum(dtype=np.uint64))
        for label, times in zip(*np.unique(block.labels, return_counts=True), strict=True):
            self.labels[int(label)] = self.labels.get(int(label), 0) + int(times)
        return block

    def record(self) -> dict[str, Any]:
        return {
            "pixels": self.pixels,
            "first": self.first,
            "second": self.second,
            "labels": sorted(self.labels.items()),
        }


def _described(path: Path, name: str, count: int, offsets: list[int]) -> Shard:
    """A shard's entry in the manifest, from the file as it was written."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return Shard(
            name=name,
            count=count,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            offsets=offsets,
            crc32=[zlib.crc32(content[start:end]) for start, end in pairwise(offsets)],
        )


def _manifest(
    source: Source,
    settings: dict[str, Any],
    image_shape: tuple[int, int, int],
    key: str,
    jobs: list[_Job],
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


def _publish(build: Path, out: Path, partial: Path) -> None:
    old = partial / "old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(build, out)
    _sync_folder(out.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
