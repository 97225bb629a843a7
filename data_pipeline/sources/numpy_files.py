"""NumPy files, read with care: headers first, then rows; nothing is ever unpickled.

What a header promises is compared with what is there before memory is taken. Rows are read
when they are asked for, so that a file may be larger than memory; a compressed member is
unpacked once, into memory or a temporary file.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import shutil
import stat
import struct
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.sources.bounds import SMALL, refuse_bomb

_HEADER = 16 << 10
_CHUNK = 1 << 20
_LARGER = "set TMPDIR to a folder on a larger disk"


@dataclass(frozen=True)
class StoredArray:
    """An array in a file, of which only the header was read.

    Attributes
    ----------
    where : str
        Names it in messages.
    shape : tuple of int
        As its header says; the bytes for it are there.
    dtype : numpy.dtype
        Of plain values.
    """

    where: str
    shape: tuple[int, ...]
    dtype: np.dtype
    _path: Path
    _offset: int
    _fortran: bool
    _unpacked: Temporary | None = None
    """Kept so that the temporary file lives as long as the array."""

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` (not included), in the machine's byte order.

        Raises
        ------
        UserError
            If the file cannot be read, or changed meanwhile.
        """
        if self._fortran:
            return self._loaded[start:stop]
        row = math.prod(self.shape[1:])
        values = self._read(start * row, (stop - start) * row)
        return values.reshape(stop - start, *self.shape[1:])

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows at these places, in any order, by one opening of the file.

        Raises
        ------
        UserError
            If the file cannot be read, or changed meanwhile.
        """
        if self._fortran:
            return self._loaded[rows]
        values = np.empty((len(rows), *self.shape[1:]), self.dtype)
        row = math.prod(self.shape[1:]) * self.dtype.itemsize
        edges = np.flatnonzero(np.diff(rows, prepend=-2, append=-2) != 1).tolist()
        content = values.reshape(-1).view(np.uint8).data
        with files_of_user(f"{self.where}: cannot be read"), open(self._path, "rb") as file:
            for first, end in pairwise(edges):  # rows that lie side by side
                file.seek(self._offset + int(rows[first]) * row)
                if file.readinto(content[first * row : end * row]) != (end - first) * row:
                    raise UserError(f"{self.where}: became shorter while it was read")
        return values.astype(self.dtype.newbyteorder("="), copy=False)

    def whole(self) -> np.ndarray:
        """All rows."""
        return self.rows(0, len(self))

    def sha256(self) -> str:
        """SHA-256 of type, shape and values."""
        digest = hashlib.sha256(f"{self.dtype.str} {self.shape}".encode())
        step = max(1, _CHUNK * len(self) // max(1, self.nbytes))
        for start in range(0, len(self), step):
            digest.update(self.rows(start, min(start + step, len(self))).tobytes())
        return digest.hexdigest()

    @cached_property
    def _loaded(self) -> np.ndarray:
        values = self._read(0, math.prod(self.shape)).reshape(self.shape, order="F")
        return np.ascontiguousarray(values)

    def _read(self, start: int, count: int) -> np.ndarray:
        size = count * self.dtype.itemsize
        with files_of_user(f"{self.where}: cannot be read"), open(self._path, "rb") as file:
            file.seek(self._offset + start * self.dtype.itemsize)
            data = file.read(size)
        if len(data) != size:
            raise UserError(f"{self.where}: became shorter while it was read")
        return np.frombuffer(data, self.dtype).astype(self.dtype.newbyteorder("="), copy=False)


class Temporary:
    """A file of its own that goes with its last user."""

    def __init__(self, where: str) -> None:
        with files_of_user(f"{where}: no space to unpack it", _LARGER):
            handle, name = tempfile.mkstemp(prefix="vae-dist-unpacked-")
        os.close(handle)
        self.path = Path(name)
        self.where = where
        self._end = weakref.finalize(self, _remove, name, os.getpid())

    @contextmanager
    def writing(self) -> Iterator[IO[bytes]]:
        """The file, to fill it."""
        with (
            files_of_user(f"{self.where}: no space to unpack it", _LARGER),
            open(self.path, "wb") as file,
        ):
            yield file


def _remove(name: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked writer leaves the file to its parent
        Path(name).unlink(missing_ok=True)


def open_npy(path: Path) -> StoredArray:
    """The array of an .npy file."""
    where = str(path)
    with files_of_user(f"{path}: cannot be read"), open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        return _array(file, size, where, path)


def open_npz(path: Path, wanted: Callable[[str], bool]) -> tuple[dict[str, StoredArray], list[str]]:
    """The arrays of an .npz file that are `wanted`, by name, and the names of all."""
    where = str(path)
    with (
        files_of_user(f"{path}: cannot be read"),
        zip_faults(where),
        zipfile.ZipFile(path) as archive,
    ):
        members = {
            info.filename.removesuffix(".npy"): info
            for info in archive.infolist()
            if info.filename.endswith(".npy")
        }
        arrays = {
            name: _member(archive, info, path, f"{where}: {name}")
            for name, info in members.items()
            if wanted(name)
        }
    return arrays, list(members)


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, where: str) -> StoredArray:
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(f"{where}: packed by a method that numpy does not write")
    if info.flag_bits & 1:
        raise UserError(f"{where}: encrypted; unpack it first")
    refuse_bomb(where, min(info.compress_size, path.stat().st_size), info.file_size)
    with archive.open(info) as member:
        found = _array(member, info.file_size, where, path)
    if info.compress_type == zipfile.ZIP_STORED:
        with archive.open(info) as member:
            while member.read(_CHUNK):  # to its end, where the CRC is compared
                pass
        return replace(found, _offset=found._offset + _start(path, info))
    unpacked = Temporary(where)
    with archive.open(info) as member, unpacked.writing() as file:
        shutil.copyfileobj(member, file, _CHUNK)
    return replace(found, _path=unpacked.path, _unpacked=unpacked)


def _start(path: Path, info: zipfile.ZipInfo) -> int:
    """Where the bytes of a member that is not compressed begin."""
    with open(path, "rb") as file:
        file.seek(info.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
    return info.header_offset + 30 + name + extra


def _array(file: IO[bytes], size: int, where: str, path: Path) -> StoredArray:
    """What the header says, if `size` bytes can hold it."""
    head = io.BytesIO(file.read(_HEADER))
    if head.getvalue()[:6] != np.lib.format.MAGIC_PREFIX:
        raise UserError(f"{where}: not a NumPy array (holds Python objects, or something else)")
    try:
        version = np.lib.format.read_magic(head)
        if version == (1, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_1_0(head)
        elif version == (2, 0):
            shape, fortran, dtype = np.lib.format.read_array_header_2_0(head)
        else:
            raise UserError(f"{where}: format {version}, which plain arrays do not need")
    except UserError:
        raise
    except Exception as error:  # numpy evaluates the text; damaged ones raise many kinds
        raise UserError(f"{where}: damaged header ({' '.join(str(error).split())[:100]})") from None
    if dtype.hasobject:
        raise UserError(f"{where}: holds Python objects; only plain arrays are read")
    if dtype.itemsize == 0 or dtype.fields is not None or dtype.subdtype is not None:
        raise UserError(f"{where}: plain numbers or strings expected, not {dtype}")
    if len(shape) > 32 or any(length < 0 for length in shape):
        raise UserError(f"{where}: damaged header (shape {shape})")
    values = math.prod(shape) * dtype.itemsize
    if head.tell() + values != size:
        raise UserError(
            f"{where}: damaged (its header says {dtype} {shape}, {values:,} bytes; "
            f"it holds {size - head.tell():,})"
        )
    if not shape:
        raise UserError(f"{where}: a single value, expected an array")
    found = StoredArray(where, shape, dtype, path, head.tell(), bool(fortran) and len(shape) > 1)
    if found._fortran and values > SMALL:
        raise UserError(
            f"{where}: {values / 1e6:,.0f} MB in Fortran order cannot be read by rows; "
            "save it with numpy.save(PATH, numpy.ascontiguousarray(images))"
        )
    return found


@contextmanager
def zip_faults(where: str) -> Iterator[None]:
    """Name the file where Python's zip reader finds it damaged."""
    try:
        yield
    except UserError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        KeyError,
        NotImplementedError,
        OverflowError,
        RuntimeError,
        struct.error,
        ValueError,
    ) as error:
        raise UserError(f"{where}: damaged ({error})") from error


def is_regular(path: Path) -> bool:
    """Whether it is a file, not a folder, pipe, socket or device; False if it is not there."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except OSError:
        return False
