"""Images to encode: a data folder, a folder of pictures, NumPy files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.folder.manifest import MANIFEST_NAME, NAMES_NAME
from data_pipeline.folder.manifest_file import MAX_MANIFEST_BYTES
from data_pipeline.folder.opening import DataFolder, open_data
from data_pipeline.load.config import LoaderConfig
from data_pipeline.progress import Progress
from data_pipeline.redact import shown
from data_pipeline.remote.reading import is_remote, join, read_small
from data_pipeline.sources import SourceConfig, SourceData, load_source
from data_pipeline.sources.elsewhere import Brought, is_file
from data_pipeline.sources.kinds import kind_of
from data_pipeline.values import Values
from vae_dist.encode.rows import Chunk, Piece, Rows
from vae_dist.run.trained import Run

BLOCK_BYTES = 1 << 20
MAX_NAMES_BYTES = 1 << 30


class FolderRows(Rows):
    """The images of a data folder, local or remote; a piece is a shard."""

    def __init__(self, data: DataFolder, split: str) -> None:
        manifest = data.manifest
        if split not in ("all", *manifest.splits):
            raise UserError(f"--split {split}: {data.path} has {', '.join(manifest.splits)}")
        chosen = [name for name in manifest.splits if split in ("all", name)]
        self.data = data
        self.name, self.identity = manifest.name, f"{manifest.fingerprint} {split}"
        self.classes = list(manifest.classes)
        self.splits = {name: manifest.splits[name].count for name in chosen}
        self.shape = manifest.image_shape

    def name_lines(self) -> bytes:
        try:
            return read_small(join(self.data.path, NAMES_NAME), self.data.config, MAX_NAMES_BYTES)
        except FileNotFoundError:
            return b""

    def pieces(self) -> list[Piece]:
        found = []
        for split in self.splits:
            first = 0
            for number, shard in enumerate(self.data.manifest.splits[split].shards):
                found.append(Piece(split, number, first, shard.count))
                first += shard.count
        return found

    def blocks(self, piece: Piece) -> Iterator[Chunk]:
        shard = self.data.manifest.splits[piece.split].shards[piece.number]
        numbers = range(len(shard.offsets) - 1)
        # Together, by one opening of the shard, as many as make BLOCK_BYTES.
        count = max(1, BLOCK_BYTES * len(numbers) // shard.bytes)
        for first in numbers[::count]:
            blocks = [(shard, number) for number in numbers[first : first + count]]
            for images, labels, index in self.data.read_blocks(blocks):
                yield Chunk(images, labels, index)


class SourceRows(Rows):
    """The images of a folder of pictures, of tars or of NumPy files, in the order of their names.

    Parameters
    ----------
    source : SourceData
    values : Values
        What the run was trained on.
    moved : pair of str
        What the names of files begin with here, and what they are told to begin with.
    """

    def __init__(self, source: SourceData, values: Values, moved: tuple[str, str]) -> None:
        self.stored, self.values = source.values, values
        self.source, self.moved = source, moved  # the source's owner holds temporary files
        self.parts = {name: part for name, part in source.splits.items() if len(part.labels)}
        if len(self.parts) == 1:
            self.parts = {"all": next(iter(self.parts.values()))}
        self.named = {name: self._names(name) for name in self.parts}
        self.name, self.classes = source.name, list(source.classes)
        facts = {k: v for k, v in source.provenance.items() if k != "found"}
        self.identity = json.dumps(facts, sort_keys=True, default=str)
        self.splits = {name: len(part.labels) for name, part in self.parts.items()}
        self.shape = next(iter(self.parts.values())).images[:1].shape[1:]

    def blocks(self, piece: Piece) -> Iterator[Chunk]:
        part = self.parts[piece.split]
        known = self.named[piece.split]
        step = max(1, BLOCK_BYTES // int(np.prod(self.shape)))
        for first in range(piece.first, piece.first + piece.count, step):
            rows = slice(first, min(first + step, piece.first + piece.count))
            names = None if known is None else np.array(known[rows])
            images = self._as_trained(part.images[rows])
            yield Chunk(images, part.labels[rows], part.index[rows], names)

    def _names(self, split: str) -> list[str] | None:
        """Where each image lies: a file or, in a tar or a table, its place in the source."""
        stored = getattr(self.parts[split].images, "stored", None)
        if stored is None:
            return None
        if all(one.whole and not one.page for one in stored):
            here, there = self.moved
            return [there + str(one.path).removeprefix(here) for one in stored]
        named = self.source.names
        return named[split] if split in named else next(names for names in named.values() if names)

    def _as_trained(self, images: np.ndarray) -> np.ndarray:
        """Images of the type and scale that the run was trained on."""
        if self.stored == self.values or self.values.scale is None:
            return images
        low, high = self.values.scale
        pixels = self.stored.to_float32(images)
        return low + pixels * (high - low) if self.values.numpy.kind == "f" else pixels


def open_images(
    path: str,
    run: Run,
    *,
    split: str,
    progress: Progress,
    **options: Any,
) -> Rows:
    """Open images to encode.

    Parameters
    ----------
    path : str
        A data folder; a folder of pictures, of tars or of .npy files; an .npy, .npz, .tar, .parquet
        or .tiff file; or the address of one.
    run : Run
        Pictures are scaled and cropped to the shape that it takes; what their values mean is what
        those of its training data meant.
    split : str
        Of a data folder: its name, or ``all``.
    progress : Progress
    **options
        Further fields of `SourceConfig`; ``scale`` says otherwise.

    Raises
    ------
    UserError
        If it is none of these, or its images have another shape.
    """
    local, image_shape = Path(path).expanduser(), run.image_shape
    if _is_data_folder(path, local):
        data = open_data(path if is_remote(path) else str(local))
        _check_values(path, data.manifest.values, run, progress)
        rows: Rows = FolderRows(data, split)
    else:
        brought, moved = None, ("", "")
        if is_remote(path):
            brought = Brought(path, LoaderConfig().patience, progress)
            local, moved = brought.path, (str(brought.path), shown(path))
        elif not local.exists():
            raise UserError(f"--images {path}: no such file or folder")
        if split != "all":
            raise UserError(
                f"--split {split}: --images {path} is no data folder; Fix: without --split"
            )
        if not run.values.are_pixels:
            raise UserError(
                f"--images {path}: the run was trained on data that are no pixels; give such a "
                "data folder"
            )
        options = {"scale": run.scales, "dtype": run.values.dtype, **options}
        source = _load(local, image_shape, progress, options)
        rows = SourceRows(replace(source, owner=brought), run.values, moved)
    if rows.shape != image_shape:
        have, want = ("x".join(map(str, s)) for s in (rows.shape, image_shape))
        raise UserError(f"--images {path}: images are {have}, the run was trained on {want}")
    return rows


def _check_values(path: str, values: Values, run: Run, progress: Progress) -> None:
    if (values.dtype, values.are_pixels) != (run.values.dtype, run.values.are_pixels):
        raise UserError(f"--images {path}: holds {values}; the run was trained on {run.values}")
    if values != run.values:
        progress.say(f"{path}: holds {values}; taken as in the run's training: {run.values}")


def _is_data_folder(path: str, local: Path) -> bool:
    if not is_remote(path):
        return (local / MANIFEST_NAME).is_file()
    if is_file(path):
        return False
    try:
        read_small(join(path, MANIFEST_NAME), LoaderConfig(), MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        return False
    return True


def _kind(path: Path) -> str:
    """Which kind of source a file or a folder is, by the endings of names."""
    return kind_of(path) or ("npz" if path.is_file() else "folder")


def _load(
    path: Path, image_shape: tuple[int, int, int], progress: Progress, options: dict[str, Any]
) -> SourceData:
    kind = _kind(path)
    if kind not in ("npz", "zarr"):
        channels, height, width = image_shape
        colour = {1: "grey", 3: "rgb"}.get(channels)
        if colour:
            options = {**options, "color": colour}
        if height == width:
            options = {**options, "image_size": height}
            kept = f"in {colour}, " if colour else ""
            progress.say(
                f"{path.name}: read {kept}scaled and cropped to {height}x{width} where they differ, "
                "as the run was trained"
            )
    config = SourceConfig(dataset=kind, source=str(path), **options)
    config.test_fraction = 0.0  # nothing is held out
    try:
        return load_source(config, progress, remark=False)
    except UserError as error:  # in the words of this command
        raise UserError(str(error).replace("--source ", "--images ", 1)) from error


def digest(*facts: str) -> str:
    """SHA-256 over some texts."""
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()
