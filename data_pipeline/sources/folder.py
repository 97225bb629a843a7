"""Folders of image files: class sub-folders or none, train and test sub-folders or none."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.progress import Progress
from data_pipeline.remote.transfer import sha256_of
from data_pipeline.sources.base import SourceConfig, SourceData, hold_out
from data_pipeline.sources.images import LazyImages, is_grey, open_image, upright

PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
IGNORED = ("thumbs.db", "desktop.ini", "__macosx")
REPORTED = 10


@dataclass(frozen=True)
class _File:
    """A file of the folder: its place below it, its part and the name of its class."""

    path: Path
    place: str
    part: str
    label: str | None


@dataclass(frozen=True)
class _Image:
    """A file that turned out to be an image."""

    file: _File
    width: int
    height: int
    grey: bool
    sha256: str


def load_folder(config: SourceConfig, progress: Progress) -> SourceData:
    """Read a folder of images.

    ``ROOT/train/CLASS/…`` and ``ROOT/test/CLASS/…``, ``ROOT/CLASS/…``, or images without
    classes. Without a test folder a validation folder takes its place; without either,
    ``--test-fraction`` of the images is held out. Every file is decoded once to see that
    it is good, and again when it is written.

    Raises
    ------
    ValueError
        If there is no folder or no image, if images differ in size and no --image-size is
        given, or if a file is no image and --on-bad-image is fail.
    """
    assert config.source is not None
    root = config.source.expanduser()
    if not root.is_dir():
        raise UserError(f"--source {config.source}: no such folder")
    files = list(_files(root))
    images, odd = _check(files, progress)
    _report(odd, config, progress)
    if not images:
        raise UserError(f"--source {config.source}: no images in it")
    shape = _shape(images, config)
    classes = sorted({i.file.label for i in images if i.file.label is not None})
    labels = np.array(
        [classes.index(i.file.label) if i.file.label is not None else -1 for i in images], np.int64
    )
    splits = {}
    for name, index, rows in _rows(images, labels, config, progress):
        paths = [images[row].file.path for row in rows]
        splits[name] = Arrays(LazyImages(paths, *shape), labels[rows], index)  # type: ignore[arg-type]
    counts = ", ".join(f"{len(part.labels)} {name}" for name, part in splits.items())
    progress.say(f"{root}: {counts} images, {len(classes)} classes, {len(odd)} files skipped")
    content = hashlib.sha256()
    for image in images:
        content.update(f"{image.file.place}\0{image.sha256}\n".encode())
    provenance = {
        "found": str(root.resolve()),
        "content": content.hexdigest(),
        "images": len(images),
        "skipped": len(odd),
        "skipped_files": [f"{place}: {why}" for place, why in odd[:100]],
        "image_size": config.image_size,
        "color": config.color,
        "test_fraction": config.test_fraction,
    }
    return SourceData(root.resolve().name, splits, classes, provenance)


def _files(root: Path) -> Iterator[_File]:
    """Every file below the folder, in the order of its name."""
    names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and _wanted(entry.name))
    parts = {name: PARTS.get(name.lower()) for name in names}
    if "train" in parts.values() and None not in parts.values():
        for name, part in parts.items():
            yield from _files_of_part(root / name, f"{name}/", str(part))
    else:
        yield from _files_of_part(root, "", "all")


def _files_of_part(folder: Path, prefix: str, part: str) -> Iterator[_File]:
    for entry in sorted(folder.iterdir(), key=lambda e: e.name):
        if not _wanted(entry.name):
            continue
        if not entry.is_dir():
            yield _File(entry, prefix + entry.name, part, None)
            continue
        for where, folders, names in os.walk(entry):
            folders[:] = sorted(filter(_wanted, folders))
            for name in sorted(filter(_wanted, names)):
                path = Path(where, name)
                place = prefix + path.relative_to(folder).as_posix()
                yield _File(path, place, part, entry.name)


def _wanted(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in IGNORED


def _check(
    files: Sequence[_File], progress: Progress
) -> tuple[list[_Image], list[tuple[str, str]]]:
    """Decode every file once: the images, and what is wrong with the others."""
    images: list[_Image] = []
    odd: list[tuple[str, str]] = []
    labelled = {file.part for file in files if file.label is not None}
    workers = min(32, len(os.sched_getaffinity(0)))
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's on single files; what matters is raised
        for done, (file, found) in enumerate(zip(files, pool.map(_look, files), strict=True)):
            if isinstance(found, str):
                odd.append((file.place, found))
            elif file.label is None and file.part in labelled:
                odd.append((file.place, "lies beside the class folders"))
            else:
                images.append(found)
            if done % 100 == 99 or done + 1 == len(files):
                progress.advance("checking images", done + 1, len(files))
    return images, odd


def _look(file: _File) -> _Image | str:
    try:
        with open_image(file.path) as opened:
            image = upright(opened)
            image.load()
        width, height = image.size
        return _Image(file, width, height, is_grey(image.mode), sha256_of(file.path))
    except MemoryError:
        return "too large for this machine's memory"
    except Exception as error:  # Pillow's plugins raise many kinds on damaged files
        return " ".join(str(error).split()) or type(error).__name__


def _report(odd: Sequence[tuple[str, str]], config: SourceConfig, progress: Progress) -> None:
    if odd and config.on_bad_image == "fail":
        more = f" (and {len(odd) - 1} more)" if len(odd) > 1 else ""
        raise UserError(
            f"--source {config.source}: {odd[0][0]}: {odd[0][1]}{more}; "
            "remove it or pass --on-bad-image skip"
        )
    for place, why in odd[:REPORTED]:
        progress.say(f"skipped {place}: {why}")
    if len(odd) > REPORTED:
        progress.say(f"skipped {len(odd) - REPORTED} more files")


def _shape(images: Sequence[_Image], config: SourceConfig) -> tuple[int, int, int]:
    """Channels, height and width of all images."""
    grey = config.color == "grey" or (config.color == "auto" and all(i.grey for i in images))
    channels = 1 if grey else 3
    if config.image_size is not None:
        return channels, config.image_size, config.image_size
    sizes = Counter((image.width, image.height) for image in images)
    if len(sizes) > 1:
        (most, _), (other, _), *_ = sizes.most_common()
        example = next(i.file.place for i in images if (i.width, i.height) == other)
        raise UserError(
            f"--source {config.source}: images differ in size ({len(sizes)} sizes; most are "
            f"{most[0]}x{most[1]}, {example} is {other[0]}x{other[1]}); give --image-size"
        )
    ((width, height),) = sizes
    return channels, height, width


def _rows(
    images: Sequence[_Image], labels: np.ndarray, config: SourceConfig, progress: Progress
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """Name, index and rows of the images of both splits."""
    part = np.array([image.file.part for image in images])
    if (part == "all").all() or set(part) == {"train"}:
        for name, rows in zip(
            ("train", "test"), hold_out(labels, config.test_fraction), strict=True
        ):
            yield name, rows.astype(np.int64), rows
        return
    test = part == "test"
    if not test.any():
        test = part == "val"
    elif (part == "val").any():
        progress.say(
            f"the {(part == 'val').sum()} images of val join train, of which folds are cut"
        )
    for name, where in (("train", ~test), ("test", test)):
        rows = np.flatnonzero(where)
        yield name, np.arange(len(rows), dtype=np.int64), rows
