"""The images of a data folder, read from its shards in blocks; never all of them at once."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder
from evaluation.cache import Cache

READ_BYTES = 32 << 20  # of stored values that are read at a time
_KEPT = 4  # blocks that `take` keeps, for rows that follow


class Images:
    """Images of one or several splits, in the order of the source.

    Attributes
    ----------
    shape : tuple of int
        (C, H, W).
    values : Values
        What the stored values mean.
    labels, index : numpy.ndarray
        (n,), int64: class, -1 for none; position in the source, ascending.
    """

    def __init__(self, data: DataFolder, splits: Sequence[str], cache: Cache) -> None:
        self.data, self.shape = data, data.manifest.image_shape
        self.values = data.manifest.values
        self._blocks = [
            (shard, number)
            for split in splits
            for shard in data.manifest.splits[split].shards
            for number in range(len(shard.offsets) - 1)
        ]
        self._recent: OrderedDict[int, np.ndarray] = OrderedDict()
        size = data.manifest.block_size
        counts = [min(size, shard.count - number * size) for shard, number in self._blocks]
        self._ends = np.cumsum(counts, dtype=np.int64)
        labels, index = self._facts(cache, splits)
        order = np.argsort(index, kind="stable")
        self.labels, self.index = labels[order], index[order]
        self._stored = order  # of each row, its place in the order of the shards
        self._row_of = np.empty_like(order)
        self._row_of[order] = np.arange(len(order))

    def _facts(self, cache: Cache, splits: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Labels and positions in the order of the shards."""
        count = int(self._ends[-1]) if len(self._ends) else 0
        key = Cache.key("labels", self.data.manifest.fingerprint, list(splits))
        held = cache.arrays("labels", key, {"labels": (count,), "index": (count,)})
        if held is None:
            labels, index = np.empty(count, np.int64), np.empty(count, np.int64)
            for start, blocks in self._runs():
                part = slice(start, int(self._ends[blocks[-1]]))
                read = self.data.read_blocks([self._blocks[block] for block in blocks])
                labels[part] = np.concatenate([one.labels for one in read])
                index[part] = np.concatenate([one.index for one in read])
            held = {"labels": labels, "index": index}
            cache.keep_arrays("labels", key, held)
        return held["labels"], held["index"]

    def __len__(self) -> int:
        return len(self._ends) and int(self._ends[-1])

    @property
    def pixels(self) -> int:
        """Values of one image."""
        return math.prod(self.shape)

    def _runs(self, most: int = READ_BYTES) -> Iterator[tuple[int, range]]:
        """Neighbouring blocks of at most this number of bytes: their first image, their numbers."""
        first = 0
        while first < len(self._ends):
            start = int(self._ends[first - 1]) if first else 0
            most_images = max(1, most // (self.pixels * self.values.size))
            last = int(np.searchsorted(self._ends, start + most_images, "right"))
            last = max(last, first + 1)
            yield start, range(first, last)
            first = last

    def parts(self, most: int = READ_BYTES) -> list[range]:
        """All images in parts of at most this number of bytes, or of one block; `read` reads one."""
        return [blocks for _, blocks in self._runs(most)]

    def read(self, part: range) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a part's images, and the images as stored, (m, C, H, W)."""
        start = int(self._ends[part[0] - 1]) if part[0] else 0
        read = self.data.read_blocks([self._blocks[block] for block in part])
        return self._row_of[start : int(self._ends[part[-1]])], np.concatenate(
            [one.images for one in read]
        )

    def take(self, rows: np.ndarray | range) -> np.ndarray:
        """The images of some rows as they are stored, (m, C, H, W), in that order."""
        stored = self._stored[np.asarray(rows)]
        block_of = np.searchsorted(self._ends, stored, "right")
        found = np.empty((len(stored), *self.shape), self.values.numpy)
        for block in np.unique(block_of).tolist():
            mine = block_of == block
            start = int(self._ends[block - 1]) if block else 0
            found[mine] = self._block(block)[stored[mine] - start]
        return found

    def _block(self, block: int) -> np.ndarray:
        if block not in self._recent:
            self._recent[block] = self.data.read_blocks([self._blocks[block]])[0].images
            if len(self._recent) > _KEPT:
                self._recent.popitem(last=False)
        self._recent.move_to_end(block)
        return self._recent[block]


def open_splits(data: DataFolder, cache: Cache) -> dict[str, Images]:
    """All training images, val among them, in the order of the source; and the test images.

    Raises
    ------
    UserError
        If there are none, or a label is none of the manifest's classes.
    """
    held = data.manifest.splits
    if not data.manifest.values.are_pixels:
        raise UserError(
            f"{data.path}: holds data that are no pixels (latents?); evaluate compares images"
        )
    if "test" not in held:
        raise UserError(f"{data.path}: has no split 'test' to score on")
    splits = {
        "train": Images(data, [name for name in ("train", "val") if name in held], cache),
        "test": Images(data, ["test"], cache),
    }
    for name, images in splits.items():
        if not len(images):
            raise UserError(f"{data.path}: has no {name} images")
    highest = max(int(images.labels.max()) for images in splits.values())
    classes = len(data.manifest.classes)
    if highest >= classes:
        raise UserError(
            f"{data.path}: has a label {highest}, its manifest names {classes} classes only;"
            " prepare it again"
        )
    return splits
