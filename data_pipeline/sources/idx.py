"""The IDX format of the MNIST family: a magic number, the shape, the bytes; gzip or plain."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import zlib
from typing import IO, Protocol

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.sources.bounds import refuse_bomb

GZIP_MAGIC = b"\x1f\x8b"
_MOST_DIMENSIONS = 4


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_idx(file: IO[bytes], size: int, where: str) -> tuple[np.ndarray, str]:
    """Array of unsigned bytes in an IDX file.

    The header is read first: no more memory is taken than it asks for, and what it asks for
    is believed only as far as the file's size allows.

    Parameters
    ----------
    file : binary file
        At its start; compressed by gzip or not.
    size : int
        Its bytes, as they lie there.
    where : str
        Names the file in errors.

    Returns
    -------
    numpy.ndarray of uint8, str
        The array (read-only), and the SHA-256 of the uncompressed content.

    Raises
    ------
    UserError
        If it is not IDX, not of bytes, damaged, or its length is not what its header says.
    """
    start = file.read(2)
    whole = io.BufferedReader(_Joined(start, file))
    if start != GZIP_MAGIC:
        return _read_plain(whole, size, where, packed=False)
    try:
        with gzip.open(whole) as content:
            return _read_plain(content, size, where, packed=True)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"{where}: damaged gzip file ({error}); fetch it again") from error


def _read_plain(file: _Readable, size: int, where: str, packed: bool) -> tuple[np.ndarray, str]:
    digest = hashlib.sha256()
    magic = _read(file, 4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] != 8:
        raise UserError(f"{where}: not an IDX file of unsigned bytes")
    dims = magic[3]
    head = _read(file, 4 * dims)
    if not 0 < dims <= _MOST_DIMENSIONS or len(head) < 4 * dims:
        raise UserError(f"{where}: cut in the IDX header")
    shape = struct.unpack(f">{dims}I", head)
    count = math.prod(shape)
    if packed:
        refuse_bomb(where, size, count)
    elif size != 4 + len(head) + count:
        found = size - 4 - len(head)
        raise UserError(f"{where}: holds {found} bytes, its header says {count}")
    values = _read(file, count)
    if len(values) < count:
        raise UserError(f"{where}: holds {len(values)} bytes, its header says {count}")
    if file.read(1):
        raise UserError(f"{where}: holds more than the {count} bytes that its header says")
    for part in (magic, head, values):
        digest.update(part)
    return np.frombuffer(values, np.uint8).reshape(shape), digest.hexdigest()


def _read(file: _Readable, count: int) -> bytearray:
    """Up to `count` bytes; memory grows with what is there, not with what is asked for."""
    content = bytearray()
    while len(content) < count and (part := file.read(min(count - len(content), 1 << 20))):
        content += part
    return content


class _Joined(io.RawIOBase):
    """Bytes that were read already, then the rest of the file they came from."""

    def __init__(self, start: bytes, rest: IO[bytes]) -> None:
        self._start, self._rest = start, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        part = self._start or self._rest.read(len(buffer))
        self._start = b""
        buffer[: len(part)] = part
        return len(part)
