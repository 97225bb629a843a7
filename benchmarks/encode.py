"""The speed and memory of ``encode``, beside the stream loader alone on the same shards."""

from __future__ import annotations

import multiprocessing
import platform
import resource
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from benchmarks.data import repeated
from data_pipeline.checks import AtLeast, check_fields
from data_pipeline.folder import open_data
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from data_pipeline.progress import Silent
from data_pipeline.write.config import PrepareConfig
from data_pipeline.write.folder import write_folder
from vae_dist.encode.images import open_images
from vae_dist.encode.job import Share
from vae_dist.encode.tasks import encode_job
from vae_dist.memory.allocator import keep_freed_memory
from vae_dist.run.load import load_run


@dataclass(kw_only=True)
class BenchEncodeConfig:
    """What ``bench encode`` measures."""

    images: Annotated[int, AtLeast(1)] = 1_000_000
    """Training images; repeated from the data folder where it has fewer."""
    rounds: Annotated[int, AtLeast(1)] = 3
    """Each is done this often, in turn; medians count."""
    scratch: Path | None = None
    """Folder to write in; a temporary one if not given."""

    def __post_init__(self) -> None:
        check_fields(self)


def write_many(folder: str, out: str, images: int) -> None:
    """Write the training images of a folder, repeated, as another."""
    data = open_data(folder)
    many = repeated(data.arrays("train"), images, data.manifest.classes)
    write_folder(many, Path(out), PrepareConfig())


def bench_encode(
    data: str, run_path: str, config: BenchEncodeConfig, say: Callable[[str], None]
) -> dict[str, Any]:
    """Measure.

    Parameters
    ----------
    data : str
        Data folder.
    run_path : str
        Trained run.
    config : BenchEncodeConfig
    say : callable
        Told each round.

    Returns
    -------
    dict
        ``stream``, ``to_folder`` and ``to_npz``, each images a second by round; ``shares`` of the
        stream's rate, medians of the rounds; ``peak_memory_bytes`` of this process, whole.
    """
    rates: dict[str, list[float]] = {"stream": [], "to_folder": [], "to_npz": []}
    keep_freed_memory()
    with tempfile.TemporaryDirectory(dir=config.scratch) as scratch:
        root = Path(scratch)
        # In a process of its own: the arrays are no part of what encoding takes.
        writer = multiprocessing.get_context("spawn").Process(
            target=write_many, args=(data, str(root / "data"), config.images)
        )
        writer.start()
        writer.join()
        if writer.exitcode:
            raise RuntimeError(f"writing the images ended with {writer.exitcode}")
        run = load_run(run_path, "cpu")
        folder = open_data(str(root / "data"))
        for number in range(config.rounds):
            loader = make_loader(
                folder, "train", LoaderConfig(loader="stream", workers=0), World(), batch_size=512
            )
            started = time.perf_counter()
            count = sum(len(batch) for batch in loader.batches(number))
            rates["stream"].append(count / (time.perf_counter() - started))
            for name, out in (("to_folder", root / "latents"), ("to_npz", root / "latents.npz")):
                rows = open_images(folder.path, run, split="train", progress=Silent())
                job = encode_job(run, rows, out)
                started = time.perf_counter()
                count = job.work(Share(World()), Silent())
                job.finish(False, Silent())
                rates[name].append(count / (time.perf_counter() - started))
                shutil.rmtree(out) if out.is_dir() else out.unlink()
            say(
                f"round {number + 1}: "
                + ", ".join(f"{name} {found[-1]:,.0f} images/s" for name, found in rates.items())
            )
    shares = {
        name: statistics.median(a / b for a, b in zip(found, rates["stream"], strict=True))
        for name, found in rates.items()
    }
    return {
        "images": config.images,
        "images_per_second": rates,
        "shares": shares,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "torch": version("torch"),
        "machine": platform.machine(),
    }
