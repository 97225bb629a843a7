"""Folders of image files: class sub-folders or none, train and test sub-folders or none."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError, reason_of
from data_pipeline.progress import Progress
from data_pipeline.remote.transfer import sha256_of
from data_pipeline.sources.base import SourceConfig, SourceData, hold_out
from data_pipeline.sources.images import RULES, LazyImages, decoded
from data_pipeline.sources.names import shown
from data_pipeline.sources.pixels import Scale, Tally, said, scale_for
from data_pipeline.sources.walk import SYSTEM, Walk

PARTS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
REPORTED = 10


@dataclass(frozen=True)
class _File:
    """A file of the folder: its place below it, its part and the name of its class."""

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


class _Findings:
    """What was found out about the pictures together: values by type, rules with counts."""

    def __init__(self) -> None:
        self.tallies: dict[np.dtype, Tally] = {}
        self.counts: Counter[np.dtype] = Counter()
        self.rules: Counter[str] = Counter()

    def add(self, tally: Tally, rules: frozenset[str]) -> None:
        """Count one picture."""
        self.tallies.setdefault(tally.dtype, Tally(tally.dtype)).merge(tally)
        self.counts[tally.dtype] += 1
        self.rules.update(rules)


def load_folder(config: SourceConfig, progress: Progress) -> SourceData:
    """Read a folder of images.

    ``ROOT/train/CLASS/…`` and ``ROOT/test/CLASS/…``, ``ROOT/CLASS/…``, or images without
    classes. Without a test folder a validation folder takes its place; without either,
    ``--test-fraction`` of the images is held out. Every file is decoded once to see that
    it is good, and again when it is written.

    Raises
    ------
    UserError
        If there is no folder or no image, if a folder cannot be listed, if images differ
        in size and no --image-size is given, if a file is no image and --on-bad-image is
        fail, or if it cannot be known what their values mean.
    """
    root = config.path
    if not root.is_dir():
        raise UserError(f"--source {config.source}: no such folder")
    walk = Walk(root)
    files = list(_files(walk, config, progress))
    images, odd, findings = _check(files, root, progress)
    system = sum(why == SYSTEM for _, why in walk.passed)
    odd = sorted([*(item for item in walk.passed if item[1] != SYSTEM), *odd])
    _report(odd, config, progress)
    if not images:
        raise UserError(f"--source {config.source}: no images in it")
    lost = {file.part for file in files} - {image.file.part for image in images}
    if lost:
        raise UserError(
            f"--source {config.source}: no image of {' and '.join(sorted(lost))} can be read "
            f"({len(odd)} files skipped); put images there, or move the folder away"
        )
    scales = _scales(findings, config, progress)
    shape = _shape(images, config)
    classes = sorted({i.file.label for i in images if i.file.label is not None})
    for name in sorted({f.label for f in files if f.label is not None}.difference(classes)):
        progress.say(f"warning: {name}: no image in this class folder; it is no class")
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers.get(i.file.label or "", -1) for i in images], np.int64)
    splits = {}
    for name, index, rows in _rows(images, labels, config, progress):
        paths = [root / images[row].file.place for row in rows]
        lazy = LazyImages(paths, *shape, scales)
        splits[name] = Arrays(lazy, labels[rows], index)  # type: ignore[arg-type]
    counts = ", ".join(f"{len(part.labels)} {name}" for name, part in splits.items())
    progress.say(
        f"{shown(str(root))}: {counts} images, {len(classes)} classes, {len(odd)} files skipped"
    )
    content = hashlib.sha256()
    for image in images:
        content.update(os.fsencode(image.file.place) + f"\0{image.sha256}\n".encode())
    provenance = {
        "found": shown(str(root.resolve())),
        "content": content.hexdigest(),
        "images": len(images),
        "skipped": len(odd),
        "skipped_files": [f"{place}: {why}" for place, why in odd[:100]],
        "skipped_reasons": dict(Counter(why for _, why in odd).most_common(20)),
        "system_files": system,
        "pixels": {str(t): [s.low, s.high, s.why] for t, s in scales.items()},
        "image_size": config.image_size,
        "color": config.color,
        "test_fraction": config.test_fraction,
    }
    return SourceData(shown(root.resolve().name), splits, classes, provenance)


def _files(walk: Walk, config: SourceConfig, progress: Progress) -> Iterator[_File]:
    """Every file below the folder, in the order of its name."""
    folders, files = walk.entries()
    parts = {place: PARTS.get(place.lower()) for place in folders}
    others = [place for place, part in parts.items() if part is None]
    splits = {part for part in parts.values() if part is not None}
    if "train" not in splits or (
        others and splits == {"train"} and not _holds_classes(walk, parts)
    ):
        yield from _files_of_part(walk, folders, files, "all")
        return
    if splits == {"train"} and others:
        raise UserError(
            f"--source {config.source}: is train a class like {shown(others[0])}, or a split? "
            f"For a split, move {shown(others[0])} elsewhere; for a class, rename train"
        )
    for place in [*others, *files]:
        walk.passed.append((shown(place), "lies beside the split folders"))
    for place, part in parts.items():
        if part is not None:
            yield from _files_of_part(walk, *walk.entries(place), part)
    found = sorted(place for place, part in parts.items() if part is not None)
    progress.say(f"{shown(str(walk.root))}: {', '.join(map(shown, found))} are the splits")


def _holds_classes(walk: Walk, parts: dict[str, str | None]) -> bool:
    """Whether the train folder has folders itself, as splits have and classes have not."""
    look = Walk(walk.root)
    return any(look.entries(place)[0] for place, part in parts.items() if part == "train")


def _files_of_part(
    walk: Walk, folders: Sequence[str], files: Sequence[str], part: str
) -> Iterator[_File]:
    for place in files:
        yield _File(place, part, None)
    for folder in folders:
        name = shown(unicodedata.normalize("NFC", folder.rsplit("/", 1)[-1]))
        below = [_File(place, part, name) for place in walk.files(folder)]
        if not below:
            walk.passed.append((shown(folder), "an empty class folder"))
        yield from below


def _check(
    files: Sequence[_File], root: Path, progress: Progress
) -> tuple[list[_Image], list[tuple[str, str]], _Findings]:
    """Decode every file once: the images, what is wrong with the others, what was found."""
    images: list[_Image] = []
    findings = _Findings()
    odd: list[tuple[str, str]] = []
    labelled = {file.part for file in files if file.label is not None}
    workers = min(32, len(os.sched_getaffinity(0)))
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's on single files; what matters is raised
        looks = pool.map(partial(_look, root), files)
        for done, (file, found) in enumerate(zip(files, looks, strict=True)):
            if isinstance(found, str):
                odd.append((shown(file.place), found))
            elif file.label is None and file.part in labelled:
                odd.append((shown(file.place), "lies beside the class folders"))
            else:
                image, tally, rules = found
                images.append(image)
                findings.add(tally, rules)
            if done % 100 == 99 or done + 1 == len(files):
                progress.advance("checking images", done + 1, len(files))
    return images, odd, findings


def _look(root: Path, file: _File) -> tuple[_Image, Tally, frozenset[str]] | str:
    path = root / file.place
    try:
        with decoded(path) as image:
            tally = Tally(image.values.dtype)
            tally.add(image.values)
            height, width = image.values.shape[:2]
            found = _Image(file, width, height, image.grey, sha256_of(path))
            return found, tally, image.rules
    except MemoryError:
        return "too large for this machine's memory"
    except OSError as error:
        return reason_of(error) if error.errno else _in_a_line(error)
    except Exception as error:  # Pillow's plugins raise many kinds on damaged files
        return _in_a_line(error)


def _in_a_line(error: Exception) -> str:
    return shown(" ".join(str(error).split()))[:200] or type(error).__name__


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


def _scales(findings: _Findings, config: SourceConfig, progress: Progress) -> dict[np.dtype, Scale]:
    """What the values of each type mean, and what was done to which pictures, said."""
    scales = {}
    for dtype, tally in findings.tallies.items():
        what = f"{findings.counts[dtype]:,} pictures of {dtype}"
        scales[dtype] = scale_for(config.scale, tally, f"--source {config.source}: {what}")
        line = said(tally, scales[dtype], what)
        if line is not None:
            progress.say(line)
    for rule, meaning in RULES.items():
        if findings.rules[rule]:
            progress.say(f"{findings.rules[rule]:,} pictures {meaning}")
    return scales


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
            f"{most[0]}x{most[1]}, {shown(example)} is {other[0]}x{other[1]}); give --image-size"
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
