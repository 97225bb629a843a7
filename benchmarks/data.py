"""Measuring the pipeline beside others, on the same images in the same run."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from benchmarks import data_others as others
from data_pipeline.batch import Arrays
from data_pipeline.checks import AtLeast, check_fields
from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder, open_data
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from data_pipeline.write.config import PrepareConfig
from data_pipeline.write.folder import write_folder


@dataclass(kw_only=True)
class BenchDataConfig:
    """What ``bench data`` measures."""

    images: Annotated[int, AtLeast(1)] = 48000
    """Images of the fast readings; repeated from the data folder where it has fewer."""
    slow_images: Annotated[int, AtLeast(1)] = 4000
    """Images of the readings that decode one PNG an image."""
    batch_size: Annotated[int, AtLeast(1)] = 512
    """Images in a batch."""
    repeats: Annotated[int, AtLeast(1)] = 3
    """Each reading is done this often; the median counts."""
    workers: Annotated[int, AtLeast(0)] = 0
    """Reading processes, for all that take them."""
    scratch: Path | None = None
    """Folder to write the shards in; a temporary one if not given."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class _Images:
    """A source of training images alone."""

    splits: dict[str, Arrays]
    classes: list[str]
    name: str = "bench"

    @property
    def provenance(self) -> dict[str, Any]:
        return {}


def bench_data(
    data: DataFolder, config: BenchDataConfig, say: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Measure reading and writing.

    Parameters
    ----------
    data : DataFolder
        Its training images are used.
    config : BenchDataConfig
        How many, how often.
    say : callable, optional
        Told each figure when it is there.

    Returns
    -------
    dict
        ``rows`` (each with ``name``, ``images``, ``images_per_second``,
        ``bytes_per_second``, ``seconds``), the settings, versions and machine.
    """
    if not data.manifest.values.are_bytes:
        raise UserError(
            f"{data.path}: holds {data.manifest.values}; bench compares on 8-bit images"
        )
    raw = data.arrays("train")
    pixels = raw.images[0].size
    how = config.batch_size, config.workers
    rows: list[dict[str, Any]] = []

    def measure(name: str, action: Callable[[], int], repeats: int = config.repeats) -> None:
        seconds, images = [], 0
        for _ in range(repeats):
            started = time.perf_counter()
            images = action()
            seconds.append(time.perf_counter() - started)
        rate = images / statistics.median(seconds)
        rows.append(
            {
                "name": name,
                "images": images,
                "images_per_second": rate,
                "bytes_per_second": rate * pixels,
                "seconds": seconds,
            }
        )
        say(f"{name:<44} {rate:>12,.0f} images/s {rate * pixels / 1e6:>10,.1f} MB/s")

    with tempfile.TemporaryDirectory(dir=config.scratch) as folder:
        root = Path(folder)
        many = repeated(raw, config.images, data.manifest.classes)
        few = repeated(raw, config.slow_images, data.manifest.classes)
        count = iter(range(1000))

        def write(source: _Images, layout: str) -> DataFolder:
            out = root / f"{layout}-{next(count)}"
            write_folder(source, out, PrepareConfig(layout=layout))
            return open_data(str(out))

        measure("write blocks", lambda: _size(write(many, "block")))
        measure("write PNGs", lambda: _size(write(few, "sample")), 1)
        blocks, samples = write(many, "block"), write(few, "sample")
        read = _reader(config)
        measure("memory", read(blocks, "memory"))
        measure("stream, blocks", read(blocks, "stream"))
        measure("stream, PNGs", read(samples, "stream"))
        with _web_server(root) as address:
            for name, local in (("blocks", blocks), ("PNGs", samples)):
                cache = root / f"cache-{name}"
                away = open_data(
                    f"{address}/{Path(local.path).name}", config=LoaderConfig(cache_dir=cache)
                )
                measure(f"stream, {name} over HTTP, fetching", read(away, "stream"), 1)
                measure(f"stream, {name} over HTTP, cached", read(away, "stream"))
        measure("webdataset alone, blocks", lambda: others.webdataset_blocks(blocks))
        measure("webdataset alone, PNGs", lambda: others.webdataset_images(samples, *how))
        pictures = others.write_pictures(samples, root / "pictures")
        measure(
            "torchvision ImageFolder and DataLoader",
            lambda: others.torchvision_folder(pictures, *how),
        )
        for name, module, convert, read_epoch in (
            ("mosaicml-streaming", "streaming", others.write_mds, others.mosaicml_streaming),
            ("litdata", "litdata", others.write_litdata, others.litdata_streaming),
        ):
            if not importlib.util.find_spec(module):
                continue
            try:
                converted = convert(samples, root / module)
                measure(name, partial(read_epoch, converted, *how))
            except Exception as error:  # another library's trouble is no reason to stop
                say(f"{name}: failed ({error})")
    return {
        "schema": 1,
        "data": {"name": data.manifest.name, "image_shape": list(data.manifest.image_shape)},
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(config).items()},
        "machine": {"platform": platform.platform(), "cores": os.cpu_count()},
        "versions": {p: version(p) for p in ("torch", "torchvision", "webdataset", "numpy")},
        "rows": rows,
    }


def repeated(raw: Arrays, count: int, classes: list[str]) -> _Images:
    """Training images such that about `count` are left when a fifth is cut off as val."""
    which = np.arange(max(5, count + count // 4)) % len(raw.labels)
    arrays = Arrays(raw.images[which], raw.labels[which], np.arange(len(which)))
    return _Images({"train": arrays}, classes)


def _size(data: DataFolder) -> int:
    return sum(split.count for split in data.manifest.splits.values())


def _reader(config: BenchDataConfig) -> Callable[[DataFolder, str], Callable[[], int]]:
    def reader(data: DataFolder, mode: str) -> Callable[[], int]:
        loading = LoaderConfig(loader=mode, workers=config.workers)
        loader = make_loader(data, "train", loading, World(), batch_size=config.batch_size)
        epochs = iter(range(1000))
        # memory reads an epoch in milliseconds: several make a measurement
        times = 10 if mode == "memory" else 1

        def epoch() -> int:
            return sum(len(b) for _ in range(times) for b in loader.batches(next(epochs)))

        return epoch

    return reader


@contextlib.contextmanager
def _web_server(root: Path) -> Iterator[str]:
    """A web server on this machine, in a process of its own."""
    words = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    server = subprocess.Popen(
        [*words, "--directory", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert server.stdout is not None
        said = re.search(r"port (\d+)", server.stdout.readline())
        assert said is not None
        yield f"http://127.0.0.1:{said.group(1)}"
    finally:
        server.terminate()
        server.wait()
