"""What was written: the description of a data folder, which checks itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.values import BYTES, Values

MANIFEST_NAME = "manifest.json"
NAMES_NAME = "names.jsonl"  # of images whose source has names
PICTURE_NAME = "samples.png"  # vae-dist inspect puts it there
MANIFEST_VERSION = 4  # 1 had no crc32, 2 no checksum, 3 no dtype and scale; all are read still
BYTES_VERSION = 3
"""What a folder of grey levels of 8 bits is written as, so that older programs read it too."""
LAYOUTS = ("block", "sample", "encoded")
MAX_BLOCK_BYTES = 1 << 28
"""Pixels of one block, which is read at once."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TINY = 1e-10  # no mean or std of pixels is smaller, unless it is 0
_RECORD_BYTES = 512  # of a tar: a header, and what contents are filled up to


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One tar file.

    Attributes
    ----------
    name : str
        File name within the folder.
    count : int
        Images in it.
    bytes : int
        Size of the file.
    sha256 : str
        Of the file.
    offsets : list of int
        Where each block starts in the file, and last where the last block ends. A block is
        `block_size` images (the last of a shard may be shorter), in either layout.
    crc32 : list of int
        Of each block's bytes; empty in folders of version 1.
    """

    name: str
    count: int
    bytes: int
    sha256: str
    offsets: list[int]
    crc32: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not (_NAME.fullmatch(self.name) and self.name.endswith(".tar")):
            raise UserError(f"name {self.name[:60]!r} is not a plain file name that ends in .tar")
        if not _SHA256.fullmatch(self.sha256):
            raise UserError(f"{self.name}: sha256 {self.sha256[:80]!r} is not a SHA-256 sum")
        if self.count < 1:
            raise UserError(f"{self.name}: count {self.count} must be at least 1")
        steps = [end - start for start, end in pairwise(self.offsets)]
        if not steps or self.offsets[0] != 0 or min(steps) <= 0 or self.offsets[-1] > self.bytes:
            raise UserError(
                f"{self.name}: offsets must ascend from 0 to at most bytes ({self.bytes})"
            )
        if self.crc32 and len(self.crc32) != len(steps):
            raise UserError(f"{self.name}: {len(self.crc32)} crc32 for {len(steps)} blocks")


@dataclass(frozen=True, kw_only=True)
class Split:
    """One split: how many images, how many of each class, and the shards in order."""

    count: int
    class_counts: list[int]
    shards: list[Shard]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Description of a data folder; see ``docs/data.md`` for every field.

    Attributes
    ----------
    name : str
        Name of the data set.
    image_shape : tuple of int
        ``(C, H, W)``.
    classes : list of str
        Names of the classes; a label indexes it. Empty where the set has no labels.
    layout : str
        ``"block"``, ``"sample"`` or ``"encoded"``.
    block_size : int
        Images in a block.
    splits : dict of str to Split
        ``train``, ``val``, ``test``.
    mean, std : list of float
        By channel over the train split, of pixels scaled to [0, 1] or, where ``scale`` is None,
        of the values as they are.
    fingerprint : str
        SHA-256 over the names and SHA-256 sums of all shards, and dtype and scale if not those
        of bytes.
    provenance : dict
        Where the images came from, and the settings that wrote them.
    version : int
        Of the format.
    checksum : str
        SHA-256 over all the rest; empty in folders of versions 1 and 2.
    dtype : str
        Of the stored values; before version 4 always uint8.
    scale : tuple of float, optional
        Which of them are 0 and 1, before version 4 always 0 and 255; None: they are no pixels.
    """

    name: str
    image_shape: tuple[int, int, int]
    classes: list[str]
    layout: str
    block_size: int
    splits: dict[str, Split]
    mean: list[float]
    std: list[float]
    fingerprint: str
    provenance: dict[str, Any] = field(default_factory=dict)
    version: int = BYTES_VERSION
    checksum: str = ""
    dtype: str = "uint8"
    scale: tuple[float, float] | None = BYTES

    def __post_init__(self) -> None:
        if self.layout not in LAYOUTS:
            raise UserError(f"layout {self.layout!r:.60}: expected one of {', '.join(LAYOUTS)}")
        if self.layout == "encoded" and not (
            self.values.are_bytes and self.image_shape[0] in (1, 3)
        ):
            raise UserError("layout encoded is of pictures of 8 bits with 1 or 3 channels")
        if min(self.image_shape) < 1 or self.block_size < 1:
            raise UserError("image_shape and block_size must be at least 1")
        if self.version <= BYTES_VERSION and not self.values.are_bytes:
            raise UserError(f"dtype and scale are of version {MANIFEST_VERSION}, this is another")
        if math.prod(self.image_shape) * self.values.size > MAX_BLOCK_BYTES:
            raise UserError(f"image_shape {self.image_shape!s:.80} is larger than can be read")
        channels = self.image_shape[0]
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels or not all(map(self._is_moment, values)):
                raise UserError(f"{name} must be {channels} numbers of 0 to 1, one a channel")
        for name in ("settings", "source"):
            if not isinstance(self.provenance.get(name, {}), dict):
                raise UserError(f"provenance.{name} is not an object")
        _check_free(self.provenance, "provenance", 20)
        if len(set(self.classes)) != len(self.classes):
            raise UserError("classes names one class twice")
        for name in ("train", "val", "test"):
            if name not in self.splits:
                raise UserError(f"splits lacks {name}")
        seen: set[str] = set()
        for name, split in self.splits.items():
            if not _NAME.fullmatch(name):
                raise UserError(f"split {name[:60]!r}: its name must be a plain word")
            for shard in split.shards:
                if shard.name in seen:
                    raise UserError(f"{shard.name} is listed twice")
                seen.add(shard.name)
                self._check_blocks(shard)

    @property
    def values(self) -> Values:
        """What the stored values mean."""
        return Values(self.dtype, self.scale)

    @property
    def image_bytes(self) -> int:
        """Bytes of the values of one image."""
        return math.prod(self.image_shape) * self.values.size

    def _is_moment(self, value: float) -> bool:
        if self.scale is None:
            return math.isfinite(value)
        return value == 0 or (_TINY if self.values.are_bytes else 0) <= value <= 1

    def _check_blocks(self, shard: Shard) -> None:
        """Refuse a shard that cannot hold what is said of it, before memory is asked for."""
        size = self.image_bytes
        most = min(self.block_size, shard.count)
        if most * size > MAX_BLOCK_BYTES:
            raise UserError(
                f"image_shape {self.image_shape} makes blocks of {most * size / 1e6:,.0f} MB; "
                f"at most {MAX_BLOCK_BYTES / 1e6:,.0f} MB are read at once"
            )
        blocks = -(-shard.count // self.block_size)
        if len(shard.offsets) != blocks + 1:
            raise UserError(
                f"{shard.name} has {len(shard.offsets)} offsets for {blocks} blocks "
                f"({shard.count} images, block_size {self.block_size})"
            )
        if self.version > 1 and len(shard.crc32) != blocks:
            raise UserError(f"{shard.name} has {len(shard.crc32)} crc32 for {blocks} blocks")
        # A label and an index are 8 bytes each; an image is a picture and a text, each with a header.
        least = size + 16 if self.layout == "block" else 4 * _RECORD_BYTES
        for number, (start, end) in enumerate(pairwise(shard.offsets)):
            count = min(self.block_size, shard.count - number * self.block_size)
            if end - start < count * least:
                raise UserError(
                    f"{shard.name}: block {number} has {end - start} bytes, too few for {count} "
                    f"images of {self.image_shape}"
                )

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def split(self, name: str) -> Split:
        """The split of that name, or a ValueError that lists those there are."""
        if name not in self.splits:
            raise UserError(f"no split {name!r} in {self.name}; it has {', '.join(self.splits)}")
        return self.splits[name]


def _check_free(value: Any, field: str, depth: int) -> None:
    """Refuse, in what may hold anything, what cannot be printed or written as JSON again."""
    if depth == 0:
        raise UserError(f"{field:.80} is nested too deeply")
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_free(name, f"a name in {field}", depth - 1)
            _check_free(inner, f"{field}.{name:.40}", depth - 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_free(inner, field, depth - 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{field} is not a finite number")
    elif isinstance(value, str) and any(0xD800 <= ord(letter) < 0xE000 for letter in value):
        raise UserError(f"{field} cannot be printed")
