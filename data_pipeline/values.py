"""What a stored number means as a pixel: the one place where it becomes a float."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipeline.errors import UserError

DTYPES = ("uint8", "uint16", "float16", "float32")
"""Types that shards hold."""
BYTES = (0.0, 255.0)


@dataclass(frozen=True)
class Values:
    """Type of stored values, and which of them are black and white.

    Attributes
    ----------
    dtype : str
        One of `DTYPES`.
    scale : tuple of float, optional
        Values that become 0 and 1; what lies outside is clipped when it is read. None where
        the data are no pixels (latents): they are taken as they are.
    """

    dtype: str = "uint8"
    scale: tuple[float, float] | None = BYTES

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UserError(f"dtype {self.dtype!r:.40}: expected one of {', '.join(DTYPES)}")
        if self.scale is not None:
            low, high = map(float, self.scale)
            object.__setattr__(self, "scale", (low, high))  # 0 and 0.0 are written alike
        if self.scale is not None and not -math.inf < self.scale[0] < self.scale[1] < math.inf:
            raise UserError(f"scale {self.scale!s:.80}: the first value must be below the second")

    def __str__(self) -> str:
        if self.scale is None:
            return f"{self.dtype}, no pixels"
        return f"{self.dtype}, {self.scale[0]:g} black, {self.scale[1]:g} white"

    @property
    def are_bytes(self) -> bool:
        """Whether they are grey levels of 0 to 255, as most pictures are."""
        return self.dtype == "uint8" and self.scale == BYTES

    @property
    def are_pixels(self) -> bool:
        """Whether they mean a brightness."""
        return self.scale is not None

    @property
    def numpy(self) -> np.dtype:
        """The type in numpy."""
        return np.dtype(self.dtype)

    @property
    def size(self) -> int:
        """Bytes of a value."""
        return self.numpy.itemsize

    def to_float(self, stored: Tensor) -> Tensor:
        """Stored values as new float32: of pixels in [0, 1]."""
        if self.scale is None:
            return stored.to(torch.float32, copy=True)
        low, high = self.scale
        if low == 0:
            found = stored.to(torch.float32, copy=True).div_(high)
        else:
            found = stored.to(torch.float32, copy=True).sub_(low).div_(high - low)
        return found if self.are_bytes else found.clamp_(0, 1)

    def to_float32(self, stored: np.ndarray) -> np.ndarray:
        """`to_float` of an array: the same bits."""
        found = stored.astype(np.float32)
        if self.scale is None:
            return found
        low, high = (np.float32(value) for value in (self.scale[0], self.scale[1] - self.scale[0]))
        if low:
            found -= low
        found /= high
        return found if self.are_bytes else np.clip(found, 0, 1, out=found)

    def to_bytes(self, stored: np.ndarray) -> np.ndarray:
        """Pixels as grey levels, uint8, to be shown."""
        if self.are_bytes:
            return stored
        return np.round(self.to_float32(stored) * np.float32(255)).clip(0, 255).astype(np.uint8)


def movable(images: Tensor) -> Tensor:
    """The same bits under a type that torch can gather: of uint16 it can only copy and convert."""
    return images.view(torch.int16) if images.dtype == torch.uint16 else images
