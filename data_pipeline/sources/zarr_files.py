"""Zarr stores in folders, formats 2 and 3, by zarr-python (extra ``zarr``), read with care.

The metadata is read here first: only arrays of plain values whose codecs pack bytes are opened, so
that nothing in a store chooses code to run. An array is unpacked once, a row of chunks at a time, into
a temporary file.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.records import parse_json
from data_pipeline.sources.bounds import RATIO, SMALL, refuse_bomb
from data_pipeline.sources.kinds import ZARR_FILES
from data_pipeline.sources.names import shown
from data_pipeline.sources.numpy_files import StoredArray, Temporary
from data_pipeline.sources.walk import Walk

CODECS = ("bytes", "blosc", "gzip", "zstd", "crc32c", "transpose", "sharding_indexed")
"""Of format 3."""
COMPRESSORS = ("blosc", "zlib", "gzip", "zstd", "lz4", "bz2", "lzma", "shuffle", "delta")
"""Compressors and filters of format 2."""
_TYPES = re.compile(
    r"bool|u?int(8|16|32|64)|float(16|32|64)|[<>|](b1|[iu][1248]|f[248]|[US]\d{1,4})"
)
_MAX_METADATA = 1 << 20
_MOST_ARRAYS = 1000
_FEW_CHUNKS = 100_000


def open_zarr(
    root: Path, wanted: Callable[[str], bool], say: Callable[[str], None]
) -> tuple[dict[str, StoredArray], list[str]]:
    """The arrays of a store that are `wanted`, by name, and the names of all.

    Parameters
    ----------
    root : Path
        Folder of an array, which is called ``images`` then, or of a group, whose arrays have
        their places for names (``train/images``).
    wanted : callable
        Whether an array of a name is.
    say : callable
        Told of chunks that are not there.

    Raises
    ------
    UserError
        If zarr is missing, or the store damaged, or its arrays hold anything but numbers and strings.
    """
    reader()
    if not root.is_dir():
        raise UserError(f"--source {root}: no such folder (a zarr store in a zip: unpack it first)")
    places = list(_arrays(root, Walk(root)))
    tables = {}
    for place in places:
        name = place or "images"
        if wanted(name):
            tables[name] = _unpacked(root / place, f"{shown(str(root))}: {shown(name)}", say)
    return tables, [place or "images" for place in places]


def _arrays(root: Path, walk: Walk) -> Iterator[str]:
    """Places of the arrays below a store's folder."""
    waiting, found = [""], 0
    while waiting:
        place = waiting.pop(0)
        names = [name for name in ZARR_FILES if (root / place / name).is_file()]
        if not names and not place:
            raise UserError(
                f"--source {root}: no zarr store ({', '.join(ZARR_FILES)}: none is there)"
            )
        if names and _is_array(root / place, names):
            found += 1
            yield place
        elif names:
            waiting += walk.entries(place)[0]
        if found + len(waiting) > _MOST_ARRAYS:
            raise UserError(f"--source {root}: more than {_MOST_ARRAYS:,} arrays and groups")


def _is_array(folder: Path, names: list[str]) -> bool:
    if "zarr.json" in names:
        return _metadata(folder / "zarr.json").get("node_type") == "array"
    return ".zarray" in names


def _metadata(path: Path) -> dict[str, Any]:
    where = shown(str(path))
    with files_of_user(f"{where}: cannot be read"), open(path, "rb") as file:
        return parse_json(file.read(_MAX_METADATA), where)


def _unpacked(folder: Path, where: str, say: Callable[[str], None]) -> StoredArray:
    """The values of an array, in a temporary file."""
    shape, chunks, dtype = _checked(folder, where)
    sizes = list(_sizes(folder, where))
    grid = [-(-length // chunk) for length, chunk in zip(shape, chunks, strict=True)]
    size = math.prod(shape) * dtype.itemsize
    row = math.prod(chunks) * math.prod(grid[1:]) * dtype.itemsize
    if row > SMALL:
        raise UserError(
            f"{where}: chunks {chunks}: {row / 1e6:,.0f} MB of them must be unpacked at once, at most "
            f"{SMALL / 1e6:,.0f} MB are; store it again with fewer images in a chunk"
        )
    refuse_bomb(where, sum(sizes), size)
    if math.prod(grid) > max(_FEW_CHUNKS, RATIO * len(sizes)):
        raise UserError(f"{where}: {math.prod(grid):,} chunks in {len(sizes):,} files: damaged")
    zarr = reader()
    try:
        array = zarr.open_array(store=str(folder), mode="r")
        missing = array.nchunks - array.nchunks_initialized
        fill = array.fill_value
    except Exception as error:  # zarr raises many kinds on damaged metadata
        raise UserError(f"{where}: damaged ({_reason(error)})") from error
    assert array.shape == shape
    if missing == array.nchunks or (missing and fill is None):
        raise UserError(f"{where}: {missing:,} of {array.nchunks:,} chunks are not there")
    if missing:
        say(
            f"{where}: {missing:,} of {array.nchunks:,} chunks are not stored: all their values are "
            f"{fill}, the fill value"
        )
    unpacked = Temporary(where)
    with unpacked.writing() as file:
        for start in range(0, shape[0], chunks[0]):
            try:
                values = np.asarray(array[start : start + chunks[0]])
            except Exception as error:  # zarr and its codecs raise many kinds on damaged chunks
                raise UserError(f"{where}: damaged ({_reason(error)})") from error
            file.write(np.ascontiguousarray(values, dtype).tobytes())
    return StoredArray(where, shape, dtype, unpacked.path, 0, False, unpacked)


def _checked(folder: Path, where: str) -> tuple[tuple[int, ...], tuple[int, ...], np.dtype]:
    """Shape, chunks and type of an array; type and codecs are such that may be opened."""
    if (folder / "zarr.json").is_file():
        found = _metadata(folder / "zarr.json")
        grid = found.get("chunk_grid")
        inner = grid.get("configuration") if isinstance(grid, dict) else None
        chunks = inner.get("chunk_shape") if isinstance(inner, dict) else None
        dtype, extra = found.get("data_type"), found.get("storage_transformers")
        _check_codecs(found.get("codecs"), where)
        if extra:
            raise UserError(f"{where}: storage transformers are not read")
    else:
        found = _metadata(folder / ".zarray")
        chunks, dtype = found.get("chunks"), found.get("dtype")
        packing = [found.get("compressor"), *(found.get("filters") or [])]
        for codec in packing:
            name = codec.get("id") if isinstance(codec, dict) else codec
            if name is not None and name not in COMPRESSORS:
                raise UserError(
                    f"{where}: packed with {name!r:.40}; read are {', '.join(COMPRESSORS)}"
                )
    if not isinstance(dtype, str) or not _TYPES.fullmatch(dtype):
        raise UserError(
            f"{where}: holds {dtype!r:.60}; plain numbers are read, and strings of a fixed length"
        )
    shape, sides = _sides(found.get("shape"), where, 0), _sides(chunks, where, 1)
    if len(shape) != len(sides):
        raise UserError(f"{where}: damaged (shape {shape}, chunks {sides})")
    return shape, sides, np.dtype(dtype)


def _check_codecs(codecs: Any, where: str) -> None:
    for codec in codecs if isinstance(codecs, list) else [None]:
        name = codec.get("name") if isinstance(codec, dict) else codec
        if name not in CODECS:
            raise UserError(f"{where}: packed with {name!r:.40}; read are {', '.join(CODECS)}")
        inner = codec.get("configuration") if isinstance(codec, dict) else None
        for key in ("codecs", "index_codecs"):
            if isinstance(inner, dict) and key in inner:
                _check_codecs(inner[key], where)


def _sides(value: Any, where: str, least: int) -> tuple[int, ...]:
    sides = tuple(value) if isinstance(value, list) else ()
    whole = all(type(side) is int and least <= side < 1 << 48 for side in sides)
    if not 1 <= len(sides) <= 8 or not whole:
        raise UserError(f"{where}: damaged (shape or chunks {value!r:.60})")
    return sides


def _sizes(folder: Path, where: str) -> Iterator[int]:
    """Bytes of every file of an array."""
    walk = Walk(folder)
    for place in walk.files():
        yield os.path.getsize(folder / place)
    for place, why in walk.passed:
        if not place.rpartition("/")[2].startswith("."):
            raise UserError(f"{where}: {place} is {why}, no chunk")


def _reason(error: Exception) -> str:
    return shown(" ".join(str(error).split()))[:150] or type(error).__name__


def reader() -> Any:
    """zarr-python."""
    try:
        import zarr
    except ImportError as error:
        fix = 'pip install "vae-dist[zarr]"'
        raise UserError(f"--dataset zarr needs zarr; {fix}") from error
    return zarr
