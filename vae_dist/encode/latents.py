"""Latents to decode: what ``vae-dist encode`` wrote, or any array of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.folder.opening import open_data
from data_pipeline.sources.names import shown
from data_pipeline.sources.numpy_files import open_npy, open_npz
from vae_dist.encode.rows import Chunk, Piece, Rows

BLOCK = 1024
WORDS = ("mu", "z", "latents")


class LatentRows(Rows):
    """Latents held in memory: they are small.

    Parameters
    ----------
    path : Path
        .npy of (n, z); .npz with ``mu`` (or ``z``, ``latents``); .parquet with such a column; a
        data folder of latents.
    """

    def __init__(self, path: Path) -> None:
        with files_of_user(f"--latents {path}: cannot be read"):
            columns = _columns(path)
        found = _latents_in(columns, path)
        z = columns[found]
        if z.ndim != 2 or z.dtype.kind != "f" or not len(z):
            raise UserError(f"--latents {path}: {found} is {z.dtype} {z.shape}; give floats (n, z)")
        if not np.isfinite(z).all():
            raise UserError(f"--latents {path}: {found} holds NaN or infinite values")
        self.z, count = z.astype(np.float32), len(z)
        for name in ("labels", "index"):
            if name in columns and columns[name].dtype.kind not in "iu":
                raise UserError(
                    f"--latents {path}: {name} are {columns[name].dtype}; give integers"
                )
        self.labels = columns.get("labels", np.full(count, -1, np.int64)).astype(np.int64)
        self.index = columns.get("index", np.arange(count)).astype(np.int64)
        self.names = columns.get("names")
        split = columns.get("split", np.full(count, "all"))
        for name, column in (("labels", self.labels), ("index", self.index), ("split", split)):
            if column.shape != (count,):
                raise UserError(f"--latents {path}: {count} latents, but {name} {column.shape}")
        order = list(dict.fromkeys(split.tolist()))
        self.rows = {name: np.flatnonzero(split == name) for name in order}
        self.splits = {name: len(rows) for name, rows in self.rows.items()}
        self.name, self.shape = path.stem, z.shape[1:]
        self.classes = [str(name) for name in columns.get("classes", ())]
        self.identity = _sum(self.z, self.labels, self.index, split)

    def blocks(self, piece: Piece) -> Iterator[Chunk]:
        rows = self.rows[piece.split][piece.first : piece.first + piece.count]
        for start in range(0, len(rows), BLOCK):
            at = rows[start : start + BLOCK]
            names = None if self.names is None else self.names[at]
            yield Chunk(self.z[at], self.labels[at], self.index[at], names)


def _latents_in(names: Collection[str], path: Path) -> str:
    """Which of a file's arrays the latents are."""
    found = next((word for word in WORDS if word in names), None)
    if found is None:
        have = ", ".join(map(shown, list(names)[:20])) or "nothing"
        raise UserError(f"--latents {path}: holds {have}; expected one of {', '.join(WORDS)}")
    return found


def _columns(path: Path) -> dict[str, np.ndarray]:
    if path.is_dir():
        return _folder(path)
    if path.suffix == ".parquet":
        return _parquet(path)
    if path.suffix == ".npy":
        return {WORDS[0]: open_npy(path).whole()}
    wanted = (*WORDS, "labels", "index", "names", "split", "classes")
    arrays, names = open_npz(path, lambda name: name in wanted)
    _latents_in(names, path)
    return {name: array.whole() for name, array in arrays.items()}


def _folder(path: Path) -> dict[str, np.ndarray]:
    data = open_data(str(path))
    parts = {name: data.rows(name) for name, one in data.manifest.splits.items() if one.count}
    mu, labels, index = map(np.concatenate, zip(*parts.values(), strict=True))
    return {
        WORDS[0]: mu if data.manifest.values.are_pixels else mu.reshape(len(mu), -1),
        "labels": labels,
        "index": index,
        "split": np.repeat(list(parts), [len(part.labels) for part in parts.values()]),
        "classes": np.array(data.manifest.classes, dtype=str),
    }


def _parquet(path: Path) -> dict[str, np.ndarray]:
    try:
        import pyarrow.parquet
    except ImportError:
        raise UserError(
            f"--latents {path}: Parquet needs pyarrow; pip install 'vae-dist[parquet]'"
        ) from None
    try:
        schema = pyarrow.parquet.read_schema(path)
        wanted = (*WORDS, "labels", "index", "names", "split")
        table = pyarrow.parquet.read_table(path, columns=[n for n in schema.names if n in wanted])
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        raise UserError(
            f"--latents {path}: not a Parquet file that can be read ({error})"
        ) from error
    columns = {}
    for name in table.column_names:
        column: Any = table.column(name).combine_chunks()
        if pyarrow.types.is_fixed_size_list(column.type):
            width = column.type.list_size
            columns[name] = column.flatten().to_numpy().reshape(-1, width)
        elif pyarrow.types.is_string(column.type):
            columns[name] = np.array(column.to_pylist(), dtype=str)
        else:
            columns[name] = column.to_numpy(zero_copy_only=False)
    return columns


def _sum(*arrays: np.ndarray) -> str:
    import hashlib

    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes())
    return total.hexdigest()
