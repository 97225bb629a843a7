"""Hugging Face data sets that lie here: parquet files with a column of encoded images."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.progress import Progress
from data_pipeline.remote.transfer import sha256_of
from data_pipeline.sources.base import SourceConfig, SourceData
from data_pipeline.sources.images import Stored
from data_pipeline.sources.label_files import LABEL_COLUMNS
from data_pipeline.sources.names import shown
from data_pipeline.sources.numpy_files import Temporary
from data_pipeline.sources.parquet_files import opened, short_of
from data_pipeline.sources.pictures import PARTS, Found, Picture, load_pictures
from data_pipeline.sources.walk import Walk

IMAGE_COLUMNS = ("image", "img", "picture", "jpg", "png", "bytes")
_ROWS = 64


def load_parquet(config: SourceConfig, progress: Progress) -> SourceData:
    """Read a parquet file, or all that lie in a folder.

    A column holds the bytes of encoded pictures, alone or as the field ``bytes`` of a
    struct (Hugging Face's images). Splits are told from the names of the files
    (``train-00000-of-00002.parquet``). The bytes are copied to a temporary file, so that
    memory does not grow with them.

    Raises
    ------
    UserError
        If a file is damaged, or has no such column.
    """
    root = config.path
    walk = Walk(root if root.is_dir() else root.parent)
    places = list(walk.files()) if root.is_dir() else [root.name]
    files = [place for place in places if place.lower().endswith(".parquet")]
    if not files or not (root.is_dir() or root.is_file()):
        raise UserError(f"--source {config.source}: no .parquet file there")
    temporary = Temporary(shown(str(root)))
    pictures: list[Picture] = []
    classes: list[str] | None = None
    with temporary.writing() as spool:
        for place in files:
            path = walk.root / place
            table = opened(path)
            image, label, names = _columns(table, config, path)
            progress.say(f"{shown(place)}: images in {image}, labels in {label or 'no column'}")
            classes = names or classes
            for number, (content, value, name) in enumerate(_rows(table, image, label, path)):
                word = None if value is None or value == -1 else str(value)
                if names is not None and word is not None and 0 <= int(word) < len(names):
                    word = names[int(word)]
                start = spool.tell()
                spool.write(content)
                stored = Stored(temporary.path, start, len(content), owner=temporary)
                shown_name = f"{place}/{number}" + (f"/{name}" if name else "")
                pictures.append(Picture(shown_name, part_of(place), word, stored))
    sums = {shown(place): sha256_of(walk.root / place) for place in files}
    found = Found(
        name=shown(root.resolve().stem if root.is_file() else root.resolve().name),
        where=shown(str(root.resolve())),
        pictures=pictures,
        passed=[(shown(p), "no parquet file") for p in places if p not in files],
        classes=classes,
        facts={"files": sums},
    )
    return load_pictures(found, config, progress)


def part_of(place: str) -> str:
    """Which split a file is of, by the words of its name; ``train`` where it names none."""
    words = re.split(r"[^a-z]+", place.lower())
    return next((PARTS[word] for word in reversed(words) if word in PARTS), "train")


def _columns(
    table: Any, config: SourceConfig, path: Path
) -> tuple[str, str | None, list[str] | None]:
    """Names of the columns of images and labels, and the classes by number, if they are named."""
    schema = table.schema_arrow
    images: list[str] = [
        c.name for c in schema if str(c.type).startswith(("struct<bytes: ", "binary"))
    ]
    images += [c.name for c in schema if str(c.type).startswith("large_binary")]
    usual = [name for word in IMAGE_COLUMNS for name in images if name.lower() == word]
    image = config.image_field or next(iter(usual or images), "")
    if image not in images:
        raise UserError(
            f"{shown(str(path))}: columns are {', '.join(map(shown, schema.names[:20]))}; "
            f"{'none holds' if config.image_field is None else 'the one asked for holds no'} "
            "encoded pictures; --image-field names it"
        )
    labels = [name for word in LABEL_COLUMNS for name in schema.names if name.lower() == word]
    label: str | None = config.label_field or next(iter(labels), None)
    if label is not None and label not in schema.names:
        raise UserError(f"{shown(str(path))}: no column {label}; --label-field names it")
    return image, label, _class_names(schema.metadata or {}, label)


def _class_names(metadata: dict[bytes, bytes], label: str | None) -> list[str] | None:
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return [shown(name) for name in names] if whole else None


def _rows(
    table: Any, image: str, label: str | None, path: Path
) -> Iterator[tuple[bytes, Any, str]]:
    import pyarrow as arrow

    columns = [image] if label is None else [image, label]
    try:
        for batch in table.iter_batches(batch_size=_ROWS, columns=columns):
            values = batch.column(label).to_pylist() if label else [None] * len(batch)
            for picture, value in zip(batch.column(image).to_pylist(), values, strict=True):
                inner = picture if isinstance(picture, dict) else {"bytes": picture}
                yield inner.get("bytes") or b"", value, shown(str(inner.get("path") or ""))
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{shown(str(path))}: damaged ({short_of(error)})") from error
