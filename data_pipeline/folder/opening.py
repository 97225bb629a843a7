"""Opening a data folder."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.folder.manifest import MANIFEST_NAME, Manifest, Shard, parse_manifest
from data_pipeline.folder.tars import decode, joined_ranges, read_samples, read_tar
from data_pipeline.load.loader import LoaderConfig
from data_pipeline.remote.reading import bring, is_remote, join, read_small, read_some, read_whole

_MEND = "run vae-dist verify, restore it, or pass --on-bad-shard skip"


@dataclass(frozen=True)
class DataFolder:
    """A data folder, local or remote.

    Attributes
    ----------
    path : str
        Path or address.
    manifest : Manifest
        What it holds.
    config : LoaderConfig
        How it is read.
    """

    path: str
    manifest: Manifest
    config: LoaderConfig

    def location(self, shard: Shard) -> str:
        """Path or address of a shard."""
        return join(self.path, shard.name)

    def arrays(self, split: str, exclude: Collection[str] = frozenset()) -> Arrays:
        """All images of a split, ascending by their position in the source.

        Parameters
        ----------
        split : str
            ``train``, ``val`` or ``test``.
        exclude : collection of str
            Names of shards to leave out.

        Raises
        ------
        ValueError
            If a shard is damaged; its name is in the message.
        """
        shards = [s for s in self.manifest.split(split).shards if s.name not in exclude]
        parts = []
        for place, shard in enumerate(shards):
            if place % self.config.remote_connections == 0:
                self._bring(shards[place : place + self.config.remote_connections])
            parts.append(self.read_shard(shard))
        images, labels, index = joined(parts, self.manifest.image_shape)
        order = np.argsort(index, kind="stable")
        return Arrays(images[order], labels[order], index[order])

    def read_blocks(
        self, blocks: Sequence[tuple[Shard, int]], parts: Sequence[slice] | None = None
    ) -> list[Arrays]:
        """Some blocks, each checked against the manifest.

        Parameters
        ----------
        blocks : sequence of (Shard, int)
            A shard and the number of a block in it.
        parts : sequence of slice, optional
            Which images of each block are wanted.
        """
        where = ", ".join(dict.fromkeys(self.location(shard) for shard, _ in blocks))
        self._bring([shard for shard, _ in blocks])
        ranges = [self._block_bytes(shard, number) for shard, number in blocks]
        samples = read_samples(joined_ranges(ranges), self.manifest.layout, where)
        wanted = parts or [slice(None)] * len(blocks)
        try:
            return [
                self._block(samples, shard, number, part)
                for (shard, number), part in zip(blocks, wanted, strict=True)
            ]
        except (tarfile.TarError, StopIteration, ValueError, OSError) as error:
            raise UserError(f"{where}: damaged shard ({error}); {_MEND}") from error

    def _block(
        self, samples: Iterator[dict[str, Any]], shard: Shard, number: int, part: slice
    ) -> Arrays:
        """The wanted images of the block that comes next."""
        layout, size = self.manifest.layout, self.manifest.block_size
        count = min(size, shard.count - number * size)
        if layout == "block":
            whole = decode(next(samples), layout)
            check_arrays(whole, self.manifest, count, shard.name)
            return Arrays(*(array[part] for array in whole))
        chosen = list(islice(samples, count))[part]
        arrays = joined([decode(s, layout) for s in chosen], self.manifest.image_shape)
        check_arrays(arrays, self.manifest, len(range(count)[part]), shard.name)
        return arrays

    def _bring(self, shards: Sequence[Shard]) -> None:
        if is_remote(self.path):
            bring([(self.location(shard), shard) for shard in shards], self.config)

    def _block_bytes(self, shard: Shard, number: int) -> bytes:
        where = self.location(shard)
        start, end = shard.offsets[number], shard.offsets[number + 1]
        content = read_some(where, shard, start, end - start, self.config)
        whole = len(content) == end - start
        if not whole or (shard.crc32 and zlib.crc32(content) != shard.crc32[number]):
            what = "has another CRC-32" if whole else "is cut short"
            raise UserError(f"{where}: damaged shard (block {number} {what}); {_MEND}")
        return content

    def read_shard(self, shard: Shard) -> Arrays:
        """All images of a shard in the order of the file, checked against the manifest."""
        where = self.location(shard)
        data = read_whole(where, shard, self.config)
        if len(data) != shard.bytes or hashlib.sha256(data).hexdigest() != shard.sha256:
            raise UserError(
                f"{where}: damaged shard ({len(data)} bytes, {shard.bytes} expected, or another "
                f"SHA-256); {_MEND}"
            )
        parts = list(read_tar(io.BytesIO(data), self.manifest.layout, where))
        arrays = joined(parts, self.manifest.image_shape)
        check_arrays(arrays, self.manifest, shard.count, where)
        return arrays


def open_data(path: str, *, config: LoaderConfig | None = None) -> DataFolder:
    """Open a data folder.

    Parameters
    ----------
    path : str
        A folder, or an address such as ``https://host/fmnist`` or ``s3://bucket/fmnist``.
    config : LoaderConfig, optional
        How to read it.
    """
    path = str(path)
    config = config or LoaderConfig()
    where = join(path, MANIFEST_NAME)
    try:
        text = read_small(where, config)
    except FileNotFoundError:
        mend = "" if is_remote(path) else "; write it with vae-dist prepare --out " + path
        raise UserError(f"{path}: no data folder (no {MANIFEST_NAME} there){mend}") from None
    return DataFolder(path, parse_manifest(text, where), config)


def joined(parts: Sequence[Arrays], image_shape: tuple[int, int, int]) -> Arrays:
    """Several arrays of images, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        none = np.zeros(0, np.int64)
        return Arrays(np.zeros((0, *image_shape), np.uint8), none, none)
    return Arrays(*map(np.concatenate, zip(*parts, strict=True)))


def check_arrays(arrays: Arrays, manifest: Manifest, count: int, where: str) -> None:
    """Refuse what is not the images that the manifest promises."""
    images, labels, index = arrays
    if images.dtype != np.uint8 or images.shape != (count, *manifest.image_shape):
        raise UserError(
            f"{where}: damaged shard: {images.dtype} {images.shape}, expected "
            f"uint8 {(count, *manifest.image_shape)}"
        )
    for name, values in (("labels", labels), ("index", index)):
        if values.dtype != np.int64 or values.shape != (count,):
            raise UserError(f"{where}: damaged shard: {name} are {values.dtype} {values.shape}")
