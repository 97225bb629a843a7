"""Pictures that were found somewhere: checked one by one, then read as they are written."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError, reason_of
from data_pipeline.pictures import RULES
from data_pipeline.progress import Progress
from data_pipeline.sources.base import SourceConfig, SourceData, hold_out
from data_pipeline.sources.images import LazyImages, Stored, decoded
from data_pipeline.sources.labels import sorted_classes
from data_pipeline.sources.names import shown
from data_pipeline.sources.pixels import kept_as, said, scale_for
from data_pipeline.sources.tally import Scale, Tally
from data_pipeline.values import Values

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
class Picture:
    """A picture that was found and not yet looked at.

    Attributes
    ----------
    place : str
        Its name within the source.
    part : str
        ``train``, ``test``, ``val``, or ``all`` where the source has no parts.
    label : str, optional
        Name of its class.
    stored : Stored
        Where its bytes are.
    """

    place: str
    part: str
    label: str | None
    stored: Stored


@dataclass(frozen=True)
class Found:
    """What was found in a source.

    Attributes
    ----------
    name : str
        Of the data set.
    where : str
        For messages and the manifest.
    pictures : list of Picture
        In the order in which they are numbered.
    passed : list of (str, str)
        What was not looked at: its name, and why.
    classes : list of str, optional
        All classes in their order; those of the labels if not given.
    system_files : int
        Hidden files and files of the system, which are only counted.
    facts : dict
        For the manifest.
    """

    name: str
    where: str
    pictures: list[Picture]
    passed: list[tuple[str, str]]
    classes: list[str] | None = None
    system_files: int = 0
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Image:
    """A picture that turned out to be one."""

    picture: Picture
    width: int
    height: int
    channels: int
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


def load_pictures(found: Found, config: SourceConfig, progress: Progress) -> SourceData:
    """Check what was found, and make a data set of it.

    Every picture is decoded once to see that it is good, and again when it is written.

    Raises
    ------
    UserError
        If there is none, if they differ in size and no --image-size is given, if one is no
        picture and --on-bad-image is fail, or if it cannot be known what their values mean.
    """
    images, odd, findings = _check(found.pictures, progress)
    odd = sorted([*found.passed, *odd])
    _report(odd, config, progress)
    if not images:
        raise UserError(f"--source {config.source}: no images in it")
    lost = {p.part for p in found.pictures} - {image.picture.part for image in images}
    if lost:
        raise UserError(
            f"--source {config.source}: no image of {' and '.join(sorted(lost))} can be read "
            f"({len(odd)} files skipped); put images there, or move the folder away"
        )
    scales, kept = _scales(findings, config, progress)
    shape = _shape(images, config)
    present = {i.picture.label for i in images if i.picture.label is not None}
    classes = found.classes if found.classes is not None else sorted_classes(present)
    named = {p.label for p in found.pictures if p.label is not None}
    for name in sorted(named.difference(present)):
        progress.say(f"warning: {name}: no image of this class can be read")
    numbers = {name: number for number, name in enumerate(classes)}
    labels = np.array([numbers.get(i.picture.label or "", -1) for i in images], np.int64)
    splits, names = {}, {}
    for name, index, rows in _rows(images, labels, config, progress):
        lazy = LazyImages([images[row].picture.stored for row in rows], *shape, scales, kept)
        splits[name] = Arrays(lazy, labels[rows], index)  # type: ignore[arg-type]
        names[name] = [shown(images[row].picture.place) for row in rows]
    counts = ", ".join(f"{len(part.labels)} {name}" for name, part in splits.items())
    progress.say(
        f"{found.where}: {counts} images, {len(classes)} classes, {len(odd)} files skipped"
    )
    content = hashlib.sha256()
    for image in images:
        content.update(os.fsencode(image.picture.place) + f"\0{image.sha256}\n".encode())
    provenance = {
        "found": found.where,
        "content": content.hexdigest(),
        "images": len(images),
        "skipped": len(odd),
        "skipped_files": [f"{place}: {why}" for place, why in odd[:100]],
        "skipped_reasons": dict(Counter(_kind(why) for _, why in odd).most_common(20)),
        "system_files": found.system_files,
        "pixels": {str(t): [s.low, s.high, s.why] for t, s in scales.items()},
        "types": {str(dtype): [s.low, s.high] for dtype, s in scales.items()},
        "image_size": config.image_size,
        "color": config.color,
        "test_fraction": config.test_fraction,
        **found.facts,
    }
    return SourceData(found.name, splits, classes, provenance, names, kept)


def _check(
    pictures: Sequence[Picture], progress: Progress
) -> tuple[list[_Image], list[tuple[str, str]], _Findings]:
    """Decode every file once: the images, what is wrong with the others, what was found."""
    images: list[_Image] = []
    findings = _Findings()
    odd: list[tuple[str, str]] = []
    workers = min(32, len(os.sched_getaffinity(0)))
    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        warnings.simplefilter("ignore")  # Pillow's on single files; what matters is raised
        looks = pool.map(_look, pictures)
        for done, (picture, found) in enumerate(zip(pictures, looks, strict=True)):
            if isinstance(found, str):
                odd.append((shown(picture.place), found))
            else:
                image, tally, rules = found
                images.append(image)
                findings.add(tally, rules)
            if done % 100 == 99 or done + 1 == len(pictures):
                progress.advance("checking images", done + 1, len(pictures))
    return images, odd, findings


def _look(picture: Picture) -> tuple[_Image, Tally, frozenset[str]] | str:
    try:
        with decoded(picture.stored) as image:
            tally = Tally(image.values.dtype)
            tally.add(image.values)
            height, width = image.values.shape[:2]
            found = _Image(picture, width, height, image.channels, picture.stored.sha256())
            return found, tally, image.rules
    except MemoryError:
        return "too large for this machine's memory"
    except OSError as error:
        return reason_of(error) if error.errno else _in_a_line(error)
    except Exception as error:  # Pillow's plugins raise many kinds on damaged files
        return _in_a_line(error)


def _in_a_line(error: Exception) -> str:
    return shown(" ".join(str(error).split()))[:200] or type(error).__name__


def _kind(why: str) -> str:
    """A reason without what is of one file only: sizes, offsets and bytes."""
    return why.partition(" (")[0].partition(": ")[0]


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


def _scales(
    findings: _Findings, config: SourceConfig, progress: Progress
) -> tuple[dict[np.dtype, Scale], Values]:
    """What the values of each type mean, what is stored, what was done to which pictures: said."""
    scales = {}
    for dtype, tally in findings.tallies.items():
        what = f"{findings.counts[dtype]:,} pictures of {dtype}"
        scales[dtype] = scale_for(config.scale, tally, f"--source {config.source}: {what}")
        line = said(tally, scales[dtype], what)
        if line is not None:
            progress.say(line)
    pairs = [(tally, scales[dtype]) for dtype, tally in findings.tallies.items()]
    kept, line = kept_as(config.dtype, pairs, f"--source {config.source}")
    if line:
        progress.say(line)
    for rule, meaning in RULES.items():
        if findings.rules[rule]:
            progress.say(f"{findings.rules[rule]:,} pictures {meaning}")
    return scales, kept


def _shape(images: Sequence[_Image], config: SourceConfig) -> tuple[int, int, int]:
    """Channels, height and width of all images."""
    kinds = {image.channels for image in images}
    if kinds <= {1, 3}:
        channels = 1 if config.color == "grey" or (config.color == "auto" and kinds == {1}) else 3
    elif len(kinds) > 1:
        raise UserError(
            f"--source {config.source}: images have {sorted(kinds)} channels; all must have the same number"
        )
    else:
        (channels,) = kinds
        if config.color != "auto":
            raise UserError(f"--color {config.color}: the images have {channels} channels")
    if config.image_size is not None:
        return channels, config.image_size, config.image_size
    sizes = Counter((image.width, image.height) for image in images)
    if len(sizes) > 1:
        (most, _), (other, _), *_ = sizes.most_common()
        example = next(i.picture.place for i in images if (i.width, i.height) == other)
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
    part = np.array([image.picture.part for image in images])
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
