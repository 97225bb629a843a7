"""Opening a data folder."""

from __future__ import annotations

import hashlib
import itertools
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.folder.encoded import Box
from data_pipeline.folder.manifest import MANIFEST_NAME, Manifest, Shard
from data_pipeline.folder.manifest_file import MAX_MANIFEST_BYTES, parse_manifest
from data_pipeline.folder.tars import read_block
from data_pipeline.load.config import LoaderConfig
from data_pipeline.redact import is_shown
from data_pipeline.remote.reading import DAMAGED, bring, is_remote, join, open_shard, read_small
from data_pipeline.sources.base import prepare_command

_CHUNK = 1 << 20


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
            Names of shards that are not read.

        Raises
        ------
        UserError
            If a shard is missing or damaged; its name is in the message.
        """
        rows = self.rows(split, exclude)
        if (np.diff(rows.index) >= 0).all():
            return rows
        order = np.argsort(rows.index, kind="stable")
        return Arrays(*(array[order] for array in rows))

    def rows(
        self,
        split: str,
        exclude: Collection[str] = frozenset(),
        allocate: Callable[[tuple[int, ...]], np.ndarray] | None = None,
    ) -> Arrays:
        """All images of a split in the order in which they were written, held once.

        Parameters
        ----------
        split, exclude
            As in `arrays`.
        allocate : callable, optional
            Makes the array of a shape, of the manifest's type, that the images are read into.
        """
        shards = [s for s in self.manifest.split(split).shards if s.name not in exclude]
        count = sum(shard.count for shard in shards)
        shape = (count, *self.manifest.image_shape)
        try:
            images = (
                np.empty(shape, self.manifest.values.numpy) if allocate is None else allocate(shape)
            )
        except MemoryError as error:
            raise UserError(
                f"{self.path}: the {split} images need {count * self.manifest.image_bytes / 1e9:,.1f} GB of memory; "
                "use --loader stream"
            ) from error
        labels, index = np.empty(count, np.int64), np.empty(count, np.int64)
        row = 0
        for place, shard in enumerate(shards):
            if place % self.config.remote_connections == 0:
                self._bring(shards[place : place + self.config.remote_connections])
            for block in self.blocks_of(shard):
                end = row + len(block.labels)
                images[row:end], labels[row:end], index[row:end] = block
                row = end
        return Arrays(images, labels, index)

    def blocks_of(self, shard: Shard) -> Iterator[Arrays]:
        """All images of a shard, block by block in the order of the file.

        Each block is checked before it is handed out, the file's SHA-256 after the last one.
        """
        where = self.location(shard)
        digest = hashlib.sha256()
        with open_shard(where, shard, self.config) as file:
            for number in range(len(shard.offsets) - 1):
                content = self._block_bytes(file, shard, number)
                digest.update(content)
                yield self._block(content, shard, number)
            while rest := file.read(_CHUNK):
                digest.update(rest)
        if digest.hexdigest() != shard.sha256:
            raise UserError(f"{where}: damaged shard (has another SHA-256); {DAMAGED}")

    def read_blocks(
        self,
        blocks: Sequence[tuple[Shard, int]],
        parts: Sequence[slice] | None = None,
        boxes: Sequence[Box] | None = None,
    ) -> list[Arrays]:
        """Some blocks, each checked against the manifest.

        Parameters
        ----------
        blocks : sequence of (Shard, int)
            A shard and the number of a block in it.
        parts : sequence of slice, optional
            Which images of each block are wanted.
        boxes : sequence of Box, optional
            Of layout encoded: which parts of the pictures of each block are wanted.
        """
        self._bring([shard for shard, _ in blocks])
        arrays = []
        parts = parts or [slice(None)] * len(blocks)
        wanted: Sequence[Box | None] = boxes or [None] * len(blocks)
        reads = zip(blocks, parts, wanted, strict=True)
        for shard, of_shard in itertools.groupby(reads, lambda read: read[0][0]):
            with open_shard(self.location(shard), shard, self.config) as file:
                for (_, number), part, box in of_shard:
                    content = self._block_bytes(file, shard, number)
                    arrays.append(self._block(content, shard, number, part, box))
        return arrays

    def _bring(self, shards: Sequence[Shard]) -> None:
        if is_remote(self.path):
            bring([(self.location(shard), shard) for shard in shards], self.config)

    def _block_bytes(self, file: BinaryIO, shard: Shard, number: int) -> bytes:
        start, end = shard.offsets[number], shard.offsets[number + 1]
        file.seek(start)
        content = file.read(end - start)
        whole = len(content) == end - start
        if not whole or (shard.crc32 and zlib.crc32(content) != shard.crc32[number]):
            what = "has another CRC-32" if whole else "is cut short"
            where = self.location(shard)
            raise UserError(f"{where}: damaged shard (block {number} {what}); {DAMAGED}")
        return content

    def _block(
        self,
        content: bytes,
        shard: Shard,
        number: int,
        part: slice = slice(None),
        box: Box | None = None,
    ) -> Arrays:
        manifest, where = self.manifest, self.location(shard)
        count = min(manifest.block_size, shard.count - number * manifest.block_size)
        arrays = read_block(
            content, manifest.layout, count, manifest.image_shape, where, part, manifest.values, box
        )
        labels, index = arrays.labels, arrays.index
        if len(labels) and not -1 <= labels.min() <= labels.max() < max(manifest.num_classes, 0):
            raise UserError(
                f"{where}: damaged shard (labels lie in {labels.min()} to {labels.max()}, "
                f"there are {manifest.num_classes} classes); {DAMAGED}"
            )
        if len(index) and index.min() < 0:
            raise UserError(f"{where}: damaged shard (a position below 0); {DAMAGED}")
        return arrays


def open_data(path: str, *, config: LoaderConfig | None = None, trusted: bool = True) -> DataFolder:
    """Open a data folder.

    Parameters
    ----------
    path : str
        A folder, or an address such as ``https://host/fmnist`` or ``s3://bucket/fmnist``.
    config : LoaderConfig, optional
        How to read it.
    trusted : bool
        As in ``parse_manifest``: False is for ``verify``.

    Raises
    ------
    UserError
        If there is no data folder, or its manifest is wrong; one line.
    """
    path = str(path)
    config = config or LoaderConfig()
    if is_shown(path):
        raise UserError(
            f"{path}: the password or signature of this address is not kept; give it again: --data"
        )
    where = join(path, MANIFEST_NAME)
    try:
        text = read_small(where, config, MAX_MANIFEST_BYTES)
    except FileNotFoundError:
        fix = "" if is_remote(path) else "; write it with " + prepare_command(path)
        raise UserError(f"{path}: no data folder (no {MANIFEST_NAME} there){fix}") from None
    except UserError as error:
        if isinstance(error.__cause__, NotADirectoryError):
            raise UserError(
                f"{path}: is a file; give the data folder that it lies in"
            ) from error.__cause__
        raise
    return DataFolder(path, parse_manifest(text, where, trusted=trusted), config)


def joined(parts: Sequence[Arrays], manifest: Manifest) -> Arrays:
    """Several arrays of a folder's images, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not parts:
        none = np.zeros(0, np.int64)
        return Arrays(np.zeros((0, *manifest.image_shape), manifest.values.numpy), none, none)
    return Arrays(*map(np.concatenate, zip(*parts, strict=True)))
