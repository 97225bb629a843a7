"""Pixels as rows of a matrix that may be larger than memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from evaluation.images import Images

PART_BYTES = 64 << 20  # of float32 rows that are held at a time
SMALL_BYTES = 256 << 20  # float32 rows up to this size are held in memory as a whole

Part = range | slice


class Pixels:
    """Rows (n, d), float32 in [0, 1], of images or of an array.

    Parameters
    ----------
    source : Images or numpy.ndarray
        An array is taken as it is.
    """

    def __init__(self, source: Images | np.ndarray) -> None:
        self._source = source
        width = source.pixels if isinstance(source, Images) else source.shape[1]
        self.shape = (len(source), width)
        self._whole = source if isinstance(source, np.ndarray) else None

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes of all rows."""
        return 4 * self.shape[0] * self.shape[1]

    @property
    def small(self) -> bool:
        """Whether all rows may lie in memory at once."""
        return self._whole is not None or self.nbytes <= SMALL_BYTES

    def parts(self) -> list[Part]:
        """The rows in parts of about `PART_BYTES`; `read` reads one."""
        if isinstance(self._source, Images) and self._whole is None:
            return list(self._source.parts(PART_BYTES // 4))
        step = max(1, PART_BYTES // (4 * self.shape[1]))
        return [slice(start, start + step) for start in range(0, len(self), step)]

    def read(self, part: Part) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the rows of a part, and the rows."""
        if self._whole is not None:
            assert isinstance(part, slice)
            return np.arange(len(self))[part], self._whole[part]
        assert isinstance(self._source, Images)
        assert isinstance(part, range)
        rows, images = self._source.read(part)
        return rows, _scaled(self._source, images)

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return (self.read(part) for part in self.parts())

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some rows."""
        if isinstance(self._source, Images) and self._whole is None:
            return _scaled(self._source, self._source.take(rows))
        assert self._whole is not None
        return self._whole[rows]

    def whole(self) -> np.ndarray:
        """All rows; of small ones they stay in memory."""
        if self._whole is not None:
            return self._whole
        found = np.empty(self.shape, np.float32)
        for rows, values in self:
            found[rows] = values
        if self.small:
            self._whole = found
        return found


def _scaled(source: Images, images: np.ndarray) -> np.ndarray:
    return source.values.to_float32(images.reshape(len(images), -1))
