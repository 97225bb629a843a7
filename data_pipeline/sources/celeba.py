"""CelebA: faces with 40 attributes, from the files that its authors publish or Kaggle's copy."""

from __future__ import annotations

import csv
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.progress import Progress
from data_pipeline.remote.transfer import sha256_of
from data_pipeline.sources.base import SourceConfig, SourceData
from data_pipeline.sources.bounds import SMALL, refuse_bomb
from data_pipeline.sources.images import Stored
from data_pipeline.sources.names import shown
from data_pipeline.sources.numpy_files import Temporary, is_regular, zip_faults
from data_pipeline.sources.pictures import Found, Picture, load_pictures

IMAGES = "img_align_celeba"
PARTITION = "list_eval_partition"
ATTRIBUTES = "list_attr_celeba"
_PARTS = {"0": "train", "1": "val", "2": "test"}
_NAME = re.compile(r"[0-9]{1,12}\.(jpg|png)")


def load_celeba(config: SourceConfig, progress: Progress) -> SourceData:
    """Read the aligned faces from a folder that holds them, packed or not, and their lists.

    ``list_eval_partition`` says which are train, val and test. There are no classes but those of
    an attribute that ``--label-field`` names (``Smiling``), out of ``list_attr_celeba``. Both
    are read as text tables or as CSV.

    Raises
    ------
    UserError
        If a file is missing, or is not what is published under its name.
    """
    root = config.path
    if not root.is_dir():
        raise UserError(f"--source {config.source}: no such folder")
    lists = _list(root, PARTITION, config)
    rows = dict(_rows(lists, width=1))
    parts = {name: _PARTS.get(values[0], "") for name, values in rows.items()}
    if not parts or "" in parts.values():
        raise UserError(f"{shown(str(lists))}: not a list of pictures and 0, 1 or 2")
    files = {lists.name: sha256_of(lists)}
    labels: dict[str, str] = {}
    if config.label_field is not None:
        table = _list(root, ATTRIBUTES, config)
        files[table.name] = sha256_of(table)
        labels = _attribute(table, config.label_field)
    else:
        progress.say("no classes; --label-field Smiling takes one of the 40 attributes")
    stored, where = _stored(root, parts, config)
    found = Found(
        name="celeba",
        where=shown(str(where)),
        pictures=[
            Picture(name, part, labels.get(name), stored[name])
            for name, part in sorted(parts.items())
            if name in stored
        ],
        passed=[(shown(name), "is not there") for name in sorted(parts) if name not in stored],
        classes=[f"not {config.label_field}", str(config.label_field)] if labels else None,
        facts={"files": files},
    )
    return load_pictures(found, config, progress)


def _places(root: Path) -> Iterator[Path]:
    """Where files may lie: in the folder, or in those right below it, as torchvision has them."""
    yield root
    yield from (path for path in sorted(root.iterdir()) if path.is_dir() and path.name != IMAGES)


def _list(root: Path, name: str, config: SourceConfig) -> Path:
    for folder in _places(root):
        for suffix in (".txt", ".csv"):
            if is_regular(folder / f"{name}{suffix}"):
                return folder / f"{name}{suffix}"
    raise UserError(f"--source {config.source}: no {name}.txt or .csv there, nor below it")


def _rows(path: Path, width: int) -> Iterator[tuple[str, list[str]]]:
    """The lines that begin with the name of a picture: that, and what follows."""
    for words in _lines(path):
        if words and _NAME.fullmatch(words[0]):
            if len(words) != width + 1:
                raise UserError(
                    f"{shown(str(path))}: {shown(words[0])} has {len(words) - 1} values"
                )
            yield words[0], words[1:]


def _lines(path: Path) -> Iterator[list[str]]:
    with files_of_user(f"{shown(str(path))}: cannot be read"), open(path, "rb") as file:
        content = file.read(SMALL + 1)
    if len(content) > SMALL:
        raise UserError(f"{shown(str(path))}: far larger than is published")
    lines = content.decode("utf-8", "backslashreplace").splitlines()
    yield from csv.reader(lines) if path.suffix == ".csv" else map(str.split, lines)


def _attribute(path: Path, wanted: str) -> dict[str, str]:
    """Of each picture whether it has an attribute, as the name of a class."""
    names: list[str] = []
    for words in _lines(path):
        if len(words) > 1:
            names = [word for word in words if word != "image_id"]
            break
    if wanted not in names:
        raise UserError(
            f"--label-field {wanted}: {shown(path.name)} has {', '.join(map(shown, names[:50]))}"
        )
    column, labels = names.index(wanted), {}
    for name, values in _rows(path, len(names)):
        if values[column] not in ("-1", "1"):
            raise UserError(
                f"{shown(str(path))}: {shown(name)}: {shown(values[column])} is no -1 or 1"
            )
        labels[name] = wanted if values[column] == "1" else f"not {wanted}"
    return labels


def _stored(
    root: Path, wanted: Mapping[str, str], config: SourceConfig
) -> tuple[dict[str, Stored], Path]:
    """Where the pictures are, by name, and the folder or the zip file that they came in."""
    for folder in _places(root):
        for place in (folder / IMAGES / IMAGES, folder / IMAGES):
            if place.is_dir():
                here = {name: Stored(place / name) for name in wanted if is_regular(place / name)}
                if here:
                    return here, place
        packed = folder / f"{IMAGES}.zip"
        if is_regular(packed):
            return _unpacked(packed, wanted), packed
    raise UserError(f"--source {config.source}: no {IMAGES}.zip, nor a folder {IMAGES} of pictures")


def _unpacked(path: Path, wanted: Mapping[str, str]) -> dict[str, Stored]:
    """The pictures of a zip file, in a temporary file."""
    where = shown(str(path))
    found = {}
    with (
        files_of_user(f"{where}: cannot be read"),
        zip_faults(where),
        zipfile.ZipFile(path) as all_,
    ):
        members = {
            name: info
            for info in all_.infolist()
            if (name := info.filename.rpartition("/")[2]) in wanted
        }
        refuse_bomb(where, path.stat().st_size, sum(i.file_size for i in members.values()))
        temporary = Temporary(where)
        with temporary.writing() as file:
            for name, info in members.items():
                refuse_bomb(where, info.compress_size, info.file_size)
                start = file.tell()
                file.write(all_.read(info))
                size = file.tell() - start
                found[name] = Stored(temporary.path, start, size, owner=temporary)
    return found
