"""Folders of image files: class sub-folders or none, train and test sub-folders or none."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from data_pipeline.errors import UserError
from data_pipeline.progress import Progress
from data_pipeline.sources.base import SourceConfig, SourceData
from data_pipeline.sources.images import Stored
from data_pipeline.sources.label_files import METADATA, LabelFile, read_labels
from data_pipeline.sources.names import shown
from data_pipeline.sources.pictures import PARTS, Found, Picture, load_pictures
from data_pipeline.sources.walk import SYSTEM, Walk


def load_folder(config: SourceConfig, progress: Progress) -> SourceData:
    """Read a folder of images.

    ``ROOT/train/CLASS/…`` and ``ROOT/test/CLASS/…``, ``ROOT/CLASS/…``, or images without
    classes, whose labels may stand in a file (``--labels``, or ``metadata.csv`` and the
    like beside them). Without a test folder a validation folder takes its place; without
    either, ``--test-fraction`` of the images is held out.

    Raises
    ------
    UserError
        If there is no folder, if a folder cannot be listed, or as `load_pictures` says.
    """
    return load_pictures(find_folder(config, progress), config, progress)


def find_folder(config: SourceConfig, progress: Progress) -> Found:
    """The files of a folder with their parts and classes, none of them opened."""
    root = config.path
    if not root.is_dir():
        raise UserError(f"--source {config.source}: no such folder")
    walk = Walk(root)
    pictures = list(_files(walk, config, progress))
    pictures, facts = _labelled(pictures, walk, config, progress)
    passed = [item for item in walk.passed if item[1] != SYSTEM]
    return Found(
        name=shown(root.resolve().name),
        where=shown(str(root.resolve())),
        pictures=pictures,
        passed=passed,
        system_files=len(walk.passed) - len(passed),
        facts=facts,
    )


def _labelled(
    pictures: list[Picture], walk: Walk, config: SourceConfig, progress: Progress
) -> tuple[list[Picture], dict[str, object]]:
    """The pictures with the labels of ``--labels``, or of metadata files beside them."""
    beside = [p for p in pictures if _is_metadata(p)]
    pictures = [p for p in pictures if not _is_metadata(p)]
    files = []
    if config.labels is not None:
        files.append(read_labels(config.labels_path, "", config))
    elif all(p.label is None for p in pictures):
        for picture in beside:
            folder = picture.place.rpartition("/")[0]
            files.append(read_labels(walk.root / picture.place, folder, config))
    else:
        walk.passed += [(shown(p.place), "not needed: class folders give labels") for p in beside]
    if not files:
        with_classes = {p.part for p in pictures if p.label is not None}
        kept = []
        for picture in pictures:
            if picture.label is None and picture.part in with_classes:
                walk.passed.append((shown(picture.place), "lies beside the class folders"))
            else:
                kept.append(picture)
        return kept, {}
    labelled = LabelFile.joined(files)
    if any(p.label is not None for p in pictures):
        progress.say(f"labels come from {labelled.where}, not from the class folders")
    pictures = [labelled.apply(p) for p in pictures]
    for line in labelled.remarks(pictures):
        progress.say(line)
    return pictures, {"labels": labelled.where, "labels_column": labelled.column}


def _files(walk: Walk, config: SourceConfig, progress: Progress) -> Iterator[Picture]:
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
    for place in files:
        if place.lower() in METADATA:
            yield Picture(place, "train", None, _stored(walk, place))
    for place in [*others, *(f for f in files if f.lower() not in METADATA)]:
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
) -> Iterator[Picture]:
    for place in files:
        yield Picture(place, part, None, _stored(walk, place))
    for folder in folders:
        name = shown(unicodedata.normalize("NFC", folder.rsplit("/", 1)[-1]))
        below = [Picture(place, part, name, _stored(walk, place)) for place in walk.files(folder)]
        if not below:
            walk.passed.append((shown(folder), "an empty class folder"))
        yield from below


def _is_metadata(picture: Picture) -> bool:
    return picture.place.rsplit("/", 1)[-1].lower() in METADATA


def _stored(walk: Walk, place: str) -> Stored:
    return Stored(walk.root / place)
