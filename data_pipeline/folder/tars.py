"""One shard: a plain webdataset tar, written with the same bytes for the same images."""

from __future__ import annotations

import io
import math
import re
import tarfile
from collections.abc import Iterator
from contextlib import suppress
from typing import IO, Any

import numpy as np
import webdataset

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.folder.encoded import SUFFIXES, Box, picture_levels
from data_pipeline.values import Values

BLOCK_MEMBERS = {"images.npy", "labels.npy", "index.npy"}
SAMPLE_MEMBERS = {"png", "cls"}
WIDE_SAMPLE_MEMBERS = {"npy", "cls"}  # of values that a PNG does not hold
_NPY_MAGIC = b"\x93NUMPY\x01\x00"
_NPY_HEADER = re.compile(
    rb"\{'descr': '([|<][a-z]\d{1,2})', 'fortran_order': False, 'shape': \(([\d, ]{0,200})\), \} *\n"
)
# RecursionError: headers that each announce another one.
_DAMAGE = (tarfile.TarError, ValueError, OverflowError, OSError, EOFError, RecursionError)
_BYTES = Values()
_PNG_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def write_tar(
    file: IO[bytes],
    blocks: Iterator[Arrays],
    layout: str,
    key: str,
    encoded: Iterator[tuple[str, bytes]] | None = None,
) -> list[int]:
    """Write blocks of images as a tar.

    Parameters
    ----------
    file : binary file
        Opened for writing.
    blocks : iterator of Arrays
        The blocks, in order.
    layout : {"block", "sample", "encoded"}
        One webdataset sample a block, or one an image.
    key : str
        What the keys of webdataset samples begin with; no dots.
    encoded : iterator of (str, bytes), optional
        Of layout encoded: suffix and bytes of each image of the blocks.

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
                    members = _image_members(image) if encoded is None else dict([next(encoded)])
                    cls = str(int(label)).encode()
                    writer.write({"__key__": f"{int(index):09d}", **members, "cls": cls})
            offsets.append(writer.tarstream.offset)
    except BaseException:
        with suppress(OSError):  # it would be closed later, when the file is no longer open
            writer.close()
        raise
    writer.close()
    return offsets


def read_block(
    content: bytes,
    layout: str,
    count: int,
    shape: tuple[int, int, int],
    where: str,
    part: slice = slice(None),
    values: Values = _BYTES,
    box: Box | None = None,
) -> Arrays:
    """The images of one block. Nothing larger is made than `count` images of `shape`.

    Parameters
    ----------
    content : bytes
        The block as it was cut out of its shard.
    layout : {"block", "sample", "encoded"}
        Of the data folder.
    count : int
        Images in the block, by the manifest.
    shape : tuple of int
        (C, H, W), by the manifest.
    where : str
        Path or address of the shard, for messages.
    part : slice
        Which images are wanted; of pictures only those are decoded.
    values : Values
        What is stored, by the manifest.
    box : Box, optional
        Of layout encoded: which part of each picture is wanted.

    Raises
    ------
    UserError
        If the block holds anything else than the manifest promises; names the shard.
    """
    try:
        pictures = SUFFIXES if layout == "encoded" else frozenset()
        samples = _samples(content, _members(layout, values), count, pictures)
        if layout == "block":
            if len(samples) != 1:
                raise UserError(f"{len(samples)} samples in a block")
            expected = ((count, *shape), (count,), (count,))
            names = ("images.npy", "labels.npy", "index.npy")
            dtypes = (values.numpy.str, "<i8", "<i8")
            return Arrays(
                *(
                    npy_array(samples[0][name], dtype, size)[part]
                    for name, dtype, size in zip(names, dtypes, expected, strict=True)
                )
            )
        if len(samples) != count:
            raise UserError(f"{len(samples)} images in a block of {count}")
        chosen = samples[part]
        images = np.empty((len(chosen), *shape), values.numpy)
        for place, (image, sample) in enumerate(zip(images, chosen, strict=True)):
            if layout == "encoded":
                image[:] = picture_levels(_picture(sample), shape, box, place)
            elif "png" in sample:
                image[:] = _png_pixels(sample["png"], shape)
            else:
                image[:] = npy_array(sample["npy"], values.numpy.str, shape)
        labels = np.array([int(sample["cls"]) for sample in chosen], np.int64)
        index = np.array([int(sample["__key__"]) for sample in chosen], np.int64)
        return Arrays(images, labels, index)
    except _DAMAGE as error:
        raise UserError(f"{where}: damaged shard ({error})") from error


def _picture(sample: dict[str, Any]) -> bytes:
    found = [sample[suffix] for suffix in SUFFIXES if suffix in sample]
    if len(found) != 1:
        raise UserError(f"{sample['__key__']!r:.80} has {len(found)} pictures")
    picture: bytes = found[0]
    return picture


def _members(layout: str, values: Values) -> set[str]:
    """What every sample must have; of layout encoded a picture, too."""
    if layout == "encoded":
        return {"cls"}
    if layout == "block":
        return BLOCK_MEMBERS
    return SAMPLE_MEMBERS if values.dtype == "uint8" else WIDE_SAMPLE_MEMBERS


def _samples(
    content: bytes, members: set[str], most: int, more: frozenset[str] = frozenset()
) -> list[dict[str, Any]]:
    """Samples as webdataset groups them, not decoded; only their known members.

    Not by webdataset's own reader, which unpacks what looks like gzip and believes the size
    that a sparse member claims.
    """
    samples: dict[str, dict[str, Any]] = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
        for number, member in enumerate(tar):
            if not member.isreg() or member.issparse() or member.size > len(content):
                raise UserError(f"{member.name!r:.80} is not a plain file")
            if number >= 8 * most + 8:
                raise UserError("far more members than images")
            key, _, suffix = member.name.partition(".")
            if suffix not in members and suffix not in more:
                continue
            sample = samples.setdefault(key, {"__key__": key})
            if suffix in sample:
                raise UserError(f"{member.name!r:.80} occurs twice")
            file = tar.extractfile(member)
            assert file is not None
            sample[suffix] = file.read()
    for key, sample in samples.items():
        if not members <= sample.keys():
            lacking = ", ".join(sorted(members - sample.keys()))
            raise UserError(f"{key!r:.80} lacks {lacking}")
    return list(samples.values())


def npy_bytes(array: np.ndarray) -> bytes:
    """An array in numpy's own file format."""
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), (1, 0), allow_pickle=False)
    return stream.getvalue()


def npy_array(data: bytes, dtype: str, shape: tuple[int, ...]) -> np.ndarray:
    """A read-only view of an array in numpy's file format; any other array is refused.

    Parameters
    ----------
    data : bytes
        Of the file.
    dtype : str
        Expected, as numpy writes it: ``"|u1"``, ``"<i8"``.
    shape : tuple of int
        Expected.
    """
    if data[:8] != _NPY_MAGIC:
        raise UserError("not an npy file of version 1.0")
    begin = 10 + int.from_bytes(data[8:10], "little")
    header = _NPY_HEADER.fullmatch(data[10:begin])
    if header is None:
        raise UserError("an array of objects, in Fortran order, or with a damaged header")
    sides = tuple(int(side) for side in header[2].split(b",") if side.strip())
    if header[1].decode() != dtype or sides != shape:
        raise UserError(f"an array of {header[1].decode()} {sides!s:.60}, expected {dtype} {shape}")
    if len(data) - begin != math.prod(shape) * np.dtype(dtype).itemsize:
        raise UserError(f"an array of {len(data) - begin} bytes, too many or too few for {shape}")
    return np.frombuffer(data, dtype, offset=begin).reshape(shape)


def _block_sample(block: Arrays, key: str) -> dict[str, Any]:
    return {
        "__key__": key,
        "images.npy": npy_bytes(block.images),
        "labels.npy": npy_bytes(block.labels),
        "index.npy": npy_bytes(block.index),
    }


def _image_members(image: np.ndarray) -> dict[str, bytes]:
    from PIL import Image

    if image.dtype != np.uint8:
        return {"npy": npy_bytes(image)}
    if image.shape[0] not in _PNG_MODES:
        raise UserError(
            f"--layout sample writes PNGs, which have 1, 3 or 4 channels, not {image.shape[0]}; "
            "use --layout block"
        )
    pixels = image[0] if image.shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    stream = io.BytesIO()
    Image.fromarray(pixels, _PNG_MODES[image.shape[0]]).save(stream, "PNG")
    return {"png": stream.getvalue()}


def _png_pixels(data: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    """Pixels (C, H, W) of a PNG; its header is compared with what is expected before decoding."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=["PNG"]) as picture:
            found = (picture.mode, picture.height, picture.width)
            if found != (_PNG_MODES.get(shape[0]), *shape[1:]):
                raise UserError(f"a PNG of {found}, expected {shape}")
            pixels = np.asarray(picture)
    except UserError:
        raise
    except Exception as error:  # whatever a foreign PNG makes the decoder raise
        raise UserError(f"a PNG that does not decode: {error}") from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
