"""The IDX format of the MNIST family: a magic number, the shape, the bytes."""

from __future__ import annotations

import gzip
import struct
import zlib

import numpy as np

from data_pipeline.errors import UserError

GZIP_MAGIC = b"\x1f\x8b"


def gunzip(data: bytes, where: str) -> bytes:
    """Decompress if compressed.

    Raises
    ------
    ValueError
        If the gzip stream is cut or damaged.
    """
    if not data.startswith(GZIP_MAGIC):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{where}: damaged gzip file ({error}); fetch it again") from error


def parse_idx(data: bytes, where: str) -> np.ndarray:
    """Array of unsigned bytes in an IDX file's content.

    Parameters
    ----------
    data : bytes
        The whole content, not compressed.
    where : str
        Names the file in errors.

    Returns
    -------
    ndarray of uint8
        A read-only view of `data`.

    Raises
    ------
    ValueError
        If it is not IDX, not of bytes, or its length is not what its head says.
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] != 8:
        raise UserError(f"{where}: not an IDX file of unsigned bytes")
    dims = data[3]
    head = 4 + 4 * dims
    if len(data) < head or dims == 0:
        raise UserError(f"{where}: cut in the IDX header")
    shape = struct.unpack(f">{dims}I", data[4:head])
    count = int(np.prod(shape, dtype=np.uint64))
    if len(data) - head != count:
        raise UserError(f"{where}: holds {len(data) - head} bytes, its header says {count}")
    return np.frombuffer(data, np.uint8, offset=head).reshape(shape)
