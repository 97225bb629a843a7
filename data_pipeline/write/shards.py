"""Writing shards by several processes: the same bytes as by one."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import mmap
import multiprocessing
import os
import threading
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.files import whole_file
from data_pipeline.folder.manifest import Shard
from data_pipeline.folder.tars import write_tar
from data_pipeline.records import parse_json, read_record
from data_pipeline.sources.array_images import ArrayImages
from data_pipeline.values import Values

_IMAGES_WORTH_A_PROCESS = 4096
_BYTES = Values()


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
class Job:
    """One shard to write: rows of one of the source's splits."""

    split: str
    name: str
    source_split: str
    rows: np.ndarray


@dataclass(frozen=True)
class WritingTask:
    """What every writing process needs to know.

    Finished shards lie in `build`; what is half done, and the record of each finished
    shard, in `scratch`. A shard counts as done once its record is there, so that a run
    that was killed goes on with those that are missing.
    """

    source: Source
    layout: str
    block_size: int
    build: Path
    scratch: Path
    values: Values = _BYTES

    def write(self, job: Job) -> dict[str, Any]:
        """Write one shard, then its record."""
        sums = Sums(self.values)
        arrays: Any = self.source.splits[job.source_split]
        blocks = _blocks(arrays, job.rows, self.block_size)
        encoded = arrays.images.encoded(job.rows) if self.layout == "encoded" else None
        with whole_file(self.build / job.name, self.scratch) as file:
            offsets = write_tar(
                file, map(sums.add, blocks), self.layout, job.name.removesuffix(".tar"), encoded
            )
            file.flush()
            shard = _described(file, job.name, len(job.rows), offsets)
        record = {"shard": dataclasses.asdict(shard), "sums": sums.record()}
        # Not flushed: of a record that a power cut damaged the shard is written again.
        with whole_file(self._record(job), self.scratch, durable=False) as file:
            file.write(json.dumps(record).encode())
        return record

    def done(self, job: Job) -> dict[str, Any] | None:
        """The record of a shard that was finished by a run that was killed."""
        where = self._record(job)
        try:
            record = dataclasses.asdict(
                read_record(_Record, parse_json(where.read_bytes(), str(where)), str(where))
            )
            size = (self.build / job.name).stat().st_size
        except (OSError, UserError):
            return None  # it is written again
        shard = record["shard"]
        whole = (shard["name"], shard["count"], shard["bytes"]) == (job.name, len(job.rows), size)
        return record if whole else None

    def _record(self, job: Job) -> Path:
        return self.scratch / f"{job.name}.json"


def write_all(
    task: WritingTask, jobs: list[Job], writers: int
) -> Iterator[tuple[Job, dict[str, Any]]]:
    """Write the jobs' shards, by several processes where that pays, in any order."""
    images = sum(len(job.rows) for job in jobs)
    if writers == 0:
        writers = min(_cores(), images // _IMAGES_WORTH_A_PROCESS)
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
        except BrokenExecutor as error:
            raise UserError(
                "a writing process was killed, perhaps for memory; lower --writers and start "
                "again: the shards that are finished are kept"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_task: WritingTask  # of a writing process, set once when it begins


def _begin(task: WritingTask, parent: int) -> None:
    global _task
    _task = task
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    """Leave no orphan behind when the parent is killed."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)


def _write_job(job: Job) -> dict[str, Any]:
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
    if isinstance(images, np.ndarray | ArrayImages):
        return images[rows]  # at once; of other sources only slices can be asked
    runs = np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1)
    return np.concatenate([images[int(run[0]) : int(run[-1]) + 1] for run in runs])


class Sums:
    """Sums over a shard: of pixels and their squares by channel, of labels.

    Those of 8-bit grey levels are exact; others are of what `Values.to_float32` gives, in float64.
    """

    def __init__(self, values: Values = _BYTES) -> None:
        self.values = values
        self.pixels = 0
        self.first: list[int | float] = []
        self.second: list[int | float] = []
        self.labels: dict[int, int] = {}

    @classmethod
    def of(cls, records: Iterable[Mapping[str, Any]], values: Values = _BYTES) -> Sums:
        """The sums over several shards, from their records."""
        whole = cls(values)
        for record in records:
            whole.pixels += record["pixels"]
            whole.first = _added(whole.first, record["first"])
            whole.second = _added(whole.second, record["second"])
            for label, times in record["labels"]:
                whole.labels[label] = whole.labels.get(label, 0) + times
        return whole

    def by_class(self, classes: int) -> list[int]:
        """Images of each class."""
        return [self.labels.get(label, 0) for label in range(classes)]

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """By channel, of pixels scaled to [0, 1]; of other values as they are."""
        pairs = list(zip(self.first, self.second, strict=True))
        if not self.values.are_bytes:
            mean = [first / self.pixels for first, _ in pairs]
            squares = [second / self.pixels for _, second in pairs]
            return mean, [max(0.0, s - m * m) ** 0.5 for m, s in zip(mean, squares, strict=True)]
        mean = [first / self.pixels / 255 for first, _ in pairs]
        std = [(s * self.pixels - f * f) ** 0.5 / self.pixels / 255 for f, s in pairs]
        return mean, std

    def add(self, block: Arrays) -> Arrays:
        """Count a block in, and hand it on."""
        count, channels, height, width = block.images.shape
        self.pixels += count * height * width
        if not self.first:
            self.first, self.second = [0] * channels, [0] * channels
        for channel in range(channels):
            values = block.images[:, channel]
            if not self.values.are_bytes:
                wide = self.values.to_float32(values).astype(np.float64)
                self.first[channel] += float(wide.sum())
                self.second[channel] += float(np.square(wide, out=wide).sum())
                continue
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


@dataclass(frozen=True, kw_only=True)
class _SumsRecord:
    pixels: int
    first: list[int | float]
    second: list[int | float]
    labels: list[tuple[int, int]]


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What lies beside a finished shard."""

    shard: Shard
    sums: _SumsRecord


def _added(sums: list[int | float], more: Sequence[int | float]) -> list[int | float]:
    return [a + b for a, b in zip(sums, more, strict=True)] if sums else list(more)


def _described(file: IO[bytes], name: str, count: int, offsets: list[int]) -> Shard:
    """A shard's entry in the manifest, from the file as it was written."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return Shard(
            name=name,
            count=count,
            bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            offsets=offsets,
            crc32=[zlib.crc32(content[start:end]) for start, end in pairwise(offsets)],
        )
