"""``vae-dist prepare``: find a data set, check it, write it as webdataset shards."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.folder.manifest import MANIFEST_NAME, Manifest
from data_pipeline.progress import Progress, Silent
from data_pipeline.remote.reading import is_remote
from data_pipeline.sources import SourceConfig, load_source
from data_pipeline.sources.base import OF_USER
from data_pipeline.sources.elsewhere import name_of
from data_pipeline.write.config import PrepareConfig
from data_pipeline.write.destination import check_place
from data_pipeline.write.folder import write_folder
from launch.config import parse
from launch.processes import is_first
from launch.progress import make_progress

COMMON = (
    *(
        "dataset",
        "source",
        "name",
        "out",
        "image_size",
        "color",
        "labels",
        "test_fraction",
        "scale",
    ),
    *("folds", "fold", "layout", "overwrite"),
)
MIRROR_VARIABLE = "VAE_DIST_MIRROR"


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist prepare ARGV``; returns the exit code."""
    source, config = parse(
        "prepare",
        [SourceConfig, PrepareConfig],
        argv,
        "Find a data set (--source, a system's copy, or a download), check it, write its shards.",
        COMMON,
    )
    started = time.perf_counter()
    out = folder_for(source, config)
    with make_progress() as progress:
        manifest, written = prepare_folder(source, config, progress)
    print(summary(manifest, out))
    if written:
        print(f"written in {time.perf_counter() - started:.1f} s")
    else:
        print("was there already, written from the same images with the same settings")
    print(outcome(manifest))
    return 0


def folder_for(source: SourceConfig, config: PrepareConfig) -> Path:
    """The data folder: ``--out``, else ``data/NAME``."""
    if config.out is not None:
        return config.out.expanduser()
    if source.name is not None:
        return Path("data") / source.name
    if source.source is not None and source.dataset in OF_USER:
        if is_remote(source.source):
            return Path("data") / name_of(source.source)
        path = source.path.resolve()
        return Path("data") / (path.name.removesuffix(".zarr") if path.is_dir() else path.stem)
    return Path("data") / source.dataset


def prepare_folder(
    source: SourceConfig, config: PrepareConfig, progress: Progress
) -> tuple[Manifest, bool]:
    """Write a data set's folder unless it is there already.

    Parameters
    ----------
    source : SourceConfig
        Which data set. Where it names no mirror, the environment's VAE_DIST_MIRROR is used.
    config : PrepareConfig
        How it is written.
    progress : Progress
        Told what is found, and how far the writing is.

    Returns
    -------
    tuple of Manifest, bool
        What the folder holds, and whether it was written now.
    """
    if source.mirror is None:
        source.mirror = os.environ.get(MIRROR_VARIABLE) or None
    out = folder_for(source, config)
    check_place(out)  # before anything is downloaded
    before = _stamp(out)
    data = load_source(source, progress)
    task = f"writing {out}"
    manifest = write_folder(
        data, out, config, lambda done, total: progress.advance(task, done, total)
    )
    return manifest, _stamp(out) != before


def prepare_missing(dataset: str, folder: Path, source: str | None = None) -> None:
    """Write a known data set's folder with default settings, for a command that needs it.

    Of several processes that call this one writes, under a lock, and the others wait.
    """
    found = SourceConfig(dataset=dataset, source=source)
    wanted = PrepareConfig(out=folder)
    if not is_first():
        prepare_folder(found, wanted, Silent())
        return
    with make_progress() as progress:
        progress.say(f"no data folder {folder}: preparing {dataset}")
        prepare_folder(found, wanted, progress)


def _stamp(out: Path) -> tuple[int, int] | None:
    try:
        status = (out / MANIFEST_NAME).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def summary(manifest: Manifest, out: Path) -> str:
    """A few lines that say what a data folder holds."""
    shape = "x".join(map(str, manifest.image_shape))
    kind = "" if manifest.values.are_bytes else f" ({manifest.values})"
    lines = [f"{manifest.name}: {shape} images{kind}, {len(manifest.classes)} classes, in {out}"]
    for name, split in manifest.splits.items():
        size = sum(shard.bytes for shard in split.shards)
        files = f"{len(split.shards)} shard" + ("s" if len(split.shards) != 1 else "")
        lines.append(f"  {name:<5} {split.count:>9,} images  {files:>10}  {size / 1e6:>10,.1f} MB")
    return "\n".join(lines)


def outcome(manifest: Manifest) -> str:
    """One line: what was read of the source, what was skipped, and why."""
    source = manifest.provenance.get("source", {})
    images = sum(split.count for split in manifest.splits.values())
    reasons = source.get("skipped_reasons", {})
    why = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items())
    skipped = source.get("skipped", 0)
    system = source.get("system_files", 0)
    return (
        f"read {images:,} images; skipped {skipped:,} files"
        + (f": {why}" if why else "")
        + (f"; {system:,} hidden or system files not looked at" if system else "")
    )
