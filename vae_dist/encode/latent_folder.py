"""Latents as a data folder, from which the next model trains by the same loader."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.files import sync, whole_file, write_whole
from data_pipeline.folder.manifest import (
    MANIFEST_NAME,
    MANIFEST_VERSION,
    NAMES_NAME,
    Manifest,
    Shard,
    Split,
)
from data_pipeline.folder.manifest_file import (
    dump_manifest,
    fingerprint_of,
    parse_manifest,
    sealed,
)
from data_pipeline.folder.wids import wids_indexes
from data_pipeline.sources import SourceData
from data_pipeline.values import Values
from data_pipeline.write.building import publish
from data_pipeline.write.shards import Job, Sums, WritingTask
from vae_dist.encode.outputs import Columns, Output
from vae_dist.encode.rows import Piece, Rows

LATENTS = Values("float32", None)
BLOCK_ROWS, BLOCK_BYTES = 4096, 1 << 18
"""Latents are small: blocks of 256, as of images, would be little more than their headers."""
SPLITS = ("train", "val", "test")


class LatentFolder(Output):
    """A data folder of mu: an image of shape (z, 1, 1) or of a grid's (c, h, w) each, its label and
    its position.

    A piece is a shard. Rows that have no split are train.

    Parameters
    ----------
    path : Path
    latent_shape : tuple of int
        (z,) or (c, h, w).
    """

    suffix = ".tar"

    def __init__(self, path: Path, latent_shape: tuple[int, ...]) -> None:
        super().__init__(path)
        channels, height, width = latent_shape if len(latent_shape) == 3 else (*latent_shape, 1, 1)
        self.shape = (channels, height, width)
        row = LATENTS.size * math.prod(self.shape)
        self.block_size = max(1, min(BLOCK_ROWS, BLOCK_BYTES // row))

    def holds(self, parts: Path, piece: Piece) -> bool:
        return self._record(parts, piece) is not None

    def keep(self, parts: Path, piece: Piece, columns: Columns) -> None:
        split, _ = _place(piece)
        latents = columns["mu"].reshape(-1, *self.shape)
        if "names" in columns:
            named = zip(columns["index"], columns["names"], strict=True)
            lines = [_line(split, int(index), str(name)) for index, name in named]
            write_whole(parts / f"{piece.name}.names", "".join(lines).encode())
        rows = {split: Arrays(latents, columns["labels"], columns["index"])}
        source = SourceData("latents", rows, [], values=LATENTS)
        self._task(parts, source).write(_job(piece))

    def _task(self, parts: Path, source: SourceData) -> WritingTask:
        return WritingTask(source, "block", self.block_size, parts, parts, LATENTS)

    def _record(self, parts: Path, piece: Piece) -> dict[str, Any] | None:
        return self._task(parts, SourceData("latents", {}, [])).done(_job(piece))

    def is_ours(self) -> bool:
        return self._present() is not None

    def key_of_present(self) -> str | None:
        manifest = self._present()
        return None if manifest is None else manifest.provenance.get("key")

    def _present(self) -> Manifest | None:
        """The manifest that lies there, if an encode wrote it."""
        path = self.path / MANIFEST_NAME
        try:
            manifest = parse_manifest(path.read_bytes(), str(path))
        except (OSError, UserError):
            return None
        source = manifest.provenance.get("source", {})
        return manifest if source.get("task") == "encode" else None

    def join(self, rows: Rows, parts: Path, partial: Path, about: dict[str, Any]) -> None:
        build = partial / "folder"
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir()
        records: dict[str, list[dict[str, Any]]] = {split: [] for split in SPLITS}
        for piece in rows.pieces():
            split, name = _place(piece)
            record = self._record(parts, piece)
            assert record is not None
            records.setdefault(split, []).append(record)
            _link(parts / name, build / name)
        manifest = self._manifest(rows, records, about)
        with whole_file(build / NAMES_NAME, partial) as file:
            for lines in self._names(rows, parts):
                file.write(lines)
            named = file.tell() > 0
        if not named:
            (build / NAMES_NAME).unlink()
        texts = {**wids_indexes(manifest), MANIFEST_NAME: dump_manifest(manifest)}
        for name, text in texts.items():
            write_whole(build / name, text.encode())
        sync(build)
        publish(build, self.path, partial)

    def _names(self, rows: Rows, parts: Path) -> Iterator[bytes]:
        """Lines of the names of the rows, where they have some."""
        yield rows.name_lines()
        for piece in rows.pieces():
            path = parts / f"{piece.name}.names"
            if path.is_file():
                yield path.read_bytes()

    def _manifest(
        self, rows: Rows, records: dict[str, list[dict[str, Any]]], about: dict[str, Any]
    ) -> Manifest:
        splits = {}
        for name, found in records.items():
            shards = [Shard(**record["shard"]) for record in found]
            splits[name] = Split(
                count=sum(shard.count for shard in shards),
                class_counts=_sums(found).by_class(len(rows.classes)),
                shards=shards,
            )
        # Of the training rows, where there are some.
        every = [record for found in records.values() for record in found]
        mean, std = _sums(records["train"] or every).mean_and_std()
        key = about.pop("key")
        return sealed(
            Manifest(
                name=f"{rows.name}-latents",
                image_shape=self.shape,
                classes=list(rows.classes),
                layout="block",
                block_size=self.block_size,
                splits=splits,
                mean=mean,
                std=std,
                fingerprint=fingerprint_of(splits, LATENTS),
                provenance={
                    "key": key,
                    "settings": {"block_size": self.block_size, "layout": "block"},
                    "source": about,
                },
                version=MANIFEST_VERSION,
                dtype=LATENTS.dtype,
                scale=LATENTS.scale,
            )
        )


def _place(piece: Piece) -> tuple[str, str]:
    """Split and name of a piece's shard."""
    split = "train" if piece.split == "all" else piece.split
    return split, f"{split}-{piece.number:06d}.tar"


def _job(piece: Piece) -> Job:
    split, name = _place(piece)
    return Job(split, name, split, np.arange(piece.count))


def _line(split: str, index: int, name: str) -> str:
    return json.dumps({"split": split, "index": index, "name": name}) + "\n"


def _sums(records: list[dict[str, Any]]) -> Sums:
    return Sums.of((record["sums"] for record in records), LATENTS)


def _link(path: Path, to: Path) -> None:
    """The same file under another name; a copy where the file system has no links."""
    try:
        os.link(path, to)
    except OSError:
        shutil.copyfile(path, to)
