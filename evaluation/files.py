"""Arrays, texts and tables, each written whole or not at all."""

from __future__ import annotations

import csv
import io
import math
import struct
import tokenize
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.files import whole_file

_DAMAGE = (
    zipfile.BadZipFile,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,  # an encrypted member; NotImplementedError: a compression that is not known
    SyntaxError,
    tokenize.TokenError,
    struct.error,
    OverflowError,
)


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz."""
    with _beside(path) as file:
        np.savez(file, allow_pickle=False, **arrays)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read every array of an .npz that `write_arrays` wrote.

    Nothing in it is unpickled or unpacked, and a header must promise what is there, so that
    it takes no more memory than the file is large.

    Raises
    ------
    UserError
        If the file cannot be read or is damaged; names the array.
    """
    name = ""
    with files_of_user(f"{path}: cannot be read"):
        size = path.stat().st_size
        try:
            with zipfile.ZipFile(path) as archive:
                found: dict[str, np.ndarray] = {}
                for member in archive.infolist():
                    name = member.filename.removesuffix(".npy")
                    size -= member.file_size
                    stored = member.compress_type == zipfile.ZIP_STORED and size >= 0
                    if not stored or name in found or name == member.filename:
                        raise ValueError("not written by vae-dist")
                    with archive.open(member) as file:
                        found[name] = _read_npy(file, member.file_size)
                return found
        except _DAMAGE as error:
            reason = " ".join(str(error).split())[:160] or type(error).__name__
            where = f"{path}: {name}" if name else str(path)
            raise UserError(f"{where}: damaged arrays ({reason}); run vae-dist evaluate") from error


def _read_npy(file: IO[bytes], size: int) -> np.ndarray:
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("an npy file of another version")
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise ValueError("holds Python objects, which allow_pickle=False refuses")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"its header promises {dtype} {shape}, which is not what follows")
    data = file.read()
    array = np.frombuffer(data, dtype) if data else np.zeros(math.prod(shape), dtype)
    return array.reshape(shape, order="F" if fortran else "C").copy()


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes."""
    with _beside(path) as file:
        file.write(content)


def write_csv(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Write one line a row; keys that are no column are not written."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


@contextmanager
def _beside(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` once it is whole; else nothing is left of it."""
    with files_of_user(f"{path}: cannot be written", "free space there or name another folder"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path, durable=False) as file:
            yield file
