"""One shard: a plain webdataset tar, written with the same bytes for the same images."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import IO, Any

import numpy as np
import webdataset
from webdataset.tariterators import group_by_keys, tar_file_expander

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError

BLOCK_MEMBERS = {"images.npy", "labels.npy", "index.npy"}
SAMPLE_MEMBERS = {"png", "cls"}
_END_OF_TAR = bytes(1024)
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_PNG_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def write_tar(file: IO[bytes], blocks: Iterator[Arrays], layout: str, key: str) -> list[int]:
    """Write blocks of images as a tar.

    Parameters
    ----------
    file : binary file
        Opened for writing.
    blocks : iterator of Arrays
        The blocks, in order.
    layout : {"block", "sample"}
        One webdataset sample a block, or one an image.
    key : str
        What the keys of webdataset samples begin with; no dots.

    Returns
    -------
    list of int
        Offsets of the blocks, and last the end of the last one.
    """
    writer = webdataset.TarWriter(file, encoder=False, mtime=0)
    offsets = [0]
    try:
        for number, block in enumerate(blocks):
            if layout == "block":
                writer.write(_block_sample(block, f"{key}-{number:06d}"))
            else:
                for image, label, index in zip(*block, strict=True):
                    writer.write(_image_sample(image, int(label), f"{int(index):09d}"))
            offsets.append(writer.tarstream.offset)
    except BaseException:
        with suppress(OSError):  # it would be closed later, when the file is no longer open
            writer.close()
        raise
    writer.close()
    return offsets


def read_tar(stream: IO[bytes], layout: str, where: str) -> Iterator[Arrays]:
    """Read a tar through webdataset's own pipeline.

    Yields
    ------
    Arrays
        One webdataset sample: a block of images, or (layout ``sample``) a single one.
    """
    for sample in read_samples(stream, layout, where):
        yield decode(sample, layout)


def read_samples(stream: IO[bytes], layout: str, where: str) -> Iterator[dict[str, Any]]:
    """Samples of a tar as webdataset groups them, not decoded; only their known members."""
    members = BLOCK_MEMBERS if layout == "block" else SAMPLE_MEMBERS
    files = tar_file_expander([{"url": where, "stream": stream}], eof_value=None)
    for sample in group_by_keys(files, suffixes=members):
        missing = members - sample.keys()
        if missing:
            raise UserError(f"{where}: {sample['__key__']} lacks {', '.join(sorted(missing))}")
        yield sample


def decode(sample: dict[str, Any], layout: str) -> Arrays:
    """The images of a sample; never with pickle."""
    return _decode_block(sample) if layout == "block" else _decode_image(sample)


def joined_ranges(ranges: Iterable[bytes]) -> IO[bytes]:
    """Whole blocks that were cut out of one or several tars, as one tar."""
    return io.BytesIO(b"".join([*ranges, _END_OF_TAR]))


def npy_bytes(array: np.ndarray) -> bytes:
    """An array in numpy's own file format."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return stream.getvalue()


def npy_array(data: bytes) -> np.ndarray:
    """A read-only view of an array in numpy's file format; objects are refused."""
    if data[:8] != _NPY_MAGIC:
        raise UserError("not an npy file of version 1.0")
    header = data[: 10 + int.from_bytes(data[8:10], "little")]
    shape, dtype = _npy_header(header)
    return np.frombuffer(data, dtype, offset=len(header)).reshape(shape)


@lru_cache(maxsize=64)
def _npy_header(header: bytes) -> tuple[tuple[int, ...], np.dtype]:
    stream = io.BytesIO(header[8:])
    shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    if dtype.hasobject or fortran:
        raise UserError(f"array of {dtype}, fortran order {fortran}: not written by vae-dist")
    return shape, dtype


def _block_sample(block: Arrays, key: str) -> dict[str, Any]:
    return {
        "__key__": key,
        "images.npy": npy_bytes(block.images),
        "labels.npy": npy_bytes(block.labels),
        "index.npy": npy_bytes(block.index),
    }


def _image_sample(image: np.ndarray, label: int, key: str) -> dict[str, Any]:
    from PIL import Image

    if image.shape[0] not in _PNG_MODES:
        raise UserError(
            f"--layout sample writes PNGs, which have 1, 3 or 4 channels, not {image.shape[0]}; "
            "use --layout block"
        )
    pixels = image[0] if image.shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    stream = io.BytesIO()
    Image.fromarray(pixels, _PNG_MODES[image.shape[0]]).save(stream, "PNG")
    return {"__key__": key, "png": stream.getvalue(), "cls": str(label).encode()}


def _decode_block(sample: dict[str, Any]) -> Arrays:
    return Arrays(*(npy_array(sample[f"{name}.npy"]) for name in ("images", "labels", "index")))


def _decode_image(sample: dict[str, Any]) -> Arrays:
    from PIL import Image

    with Image.open(io.BytesIO(sample["png"]), formats=["PNG"]) as picture:
        pixels = np.asarray(picture)
    pixels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Arrays(
        pixels[None],
        np.array([int(sample["cls"])], np.int64),
        np.array([int(sample["__key__"])], np.int64),
    )
