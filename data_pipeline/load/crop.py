"""Random resized crops: torchvision's ``RandomResizedCrop``, from given random numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from data_pipeline.errors import UserError
from data_pipeline.folder.encoded import Box
from data_pipeline.philox import draws_at

ATTEMPTS = 10
"""Boxes that are drawn until one lies within the image, as torchvision does."""
BOX_DRAWS = 2 * ATTEMPTS + 2
"""Random numbers of one box."""


@dataclass(frozen=True)
class Crop:
    """Crops that a loader draws where it decodes pictures of any size.

    Attributes
    ----------
    seed : int
        The run's.
    scale, ratio : tuple of float
        Of `crop_boxes`.
    """

    seed: int
    scale: tuple[float, float]
    ratio: tuple[float, float]

    def boxes(self, epoch: int, step: np.ndarray, position: np.ndarray) -> Box:
        """The boxes of some images, by their steps and positions in the global batch."""
        draws = draws_at(self.seed, "crop", BOX_DRAWS, epoch, step, position)

        def box(place: int, height: int, width: int) -> tuple[int, int, int, int]:
            found = crop_boxes(draws[place : place + 1], height, width, self.scale, self.ratio)
            top, left, tall, wide = found[0].tolist()
            return top, left, tall, wide

        return box


def parse_range(flag: str, text: str, most: float = math.inf) -> tuple[float, float]:
    """Both numbers of ``LOWEST,HIGHEST``.

    Raises
    ------
    UserError
        Unless they are above 0, in order, and at most `most`.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        low = high = math.nan
    if not (0 < low <= high <= most and high < math.inf):
        limit = f" up to {most:g}" if most < math.inf else ""
        raise UserError(f"{flag} {text}: expected LOWEST,HIGHEST above 0{limit}, as in 0.5,1")
    return low, high


def crop_boxes(
    draws: Tensor,
    height: int | Tensor,
    width: int | Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Tensor:
    """Boxes of a random share of an image's area, of a random aspect ratio.

    Parameters
    ----------
    draws : Tensor
        Uniform in [0, 1), ``(n, BOX_DRAWS)``.
    height, width : int or Tensor
        Of all images, or of each, ``(n,)``.
    scale : tuple of float
        Smallest and largest share of the area.
    ratio : tuple of float
        Smallest and largest width over height; their logarithm is uniform.

    Returns
    -------
    Tensor
        int64, ``(n, 4)``: top, left, height, width. Where none of the `ATTEMPTS` fits, the
        largest box about the centre whose ratio is allowed.
    """
    draws = draws.double()
    rows, columns = (
        side.to(draws) if isinstance(side, Tensor) else draws.new_full((len(draws),), side)
        for side in (height, width)
    )
    area = (rows * columns)[:, None]
    area = area * (scale[0] + draws[:, :ATTEMPTS] * (scale[1] - scale[0]))
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = (low + draws[:, ATTEMPTS : 2 * ATTEMPTS] * (high - low)).exp()
    tall, wide = (area / aspect).sqrt().round(), (area * aspect).sqrt().round()
    fits = (tall > 0) & (tall <= rows[:, None]) & (wide > 0) & (wide <= columns[:, None])
    first = fits.int().argmax(1, keepdim=True)
    any_fits = fits.any(1)
    shape = columns / rows
    tall = torch.where(
        any_fits,
        tall.gather(1, first)[:, 0],
        torch.where(shape < ratio[0], (columns / ratio[0]).round(), rows),
    )
    wide = torch.where(
        any_fits,
        wide.gather(1, first)[:, 0],
        torch.where(shape > ratio[1], (rows * ratio[1]).round(), columns),
    )
    tall, wide = tall.clamp(min=1), wide.clamp(min=1)
    top = torch.where(any_fits, draws[:, -2] * (rows - tall + 1), (rows - tall) / 2).floor()
    left = torch.where(any_fits, draws[:, -1] * (columns - wide + 1), (columns - wide) / 2).floor()
    return torch.stack([top, left, tall, wide], 1).long()


def crop(images: Tensor, boxes: Tensor) -> Tensor:
    """Enlarge a box of each image to the whole image's size, by bilinear interpolation.

    Parameters
    ----------
    images : Tensor
        float, ``(n, C, H, W)``.
    boxes : Tensor
        Of `crop_boxes`, within the images.

    Returns
    -------
    Tensor
        Of the same shape. Pixels outside the box are not mixed in.
    """
    top, left, tall, wide = boxes.to(images.dtype)[:, :, None].unbind(1)
    grid = []
    for start, extent, size in ((left, wide, images.shape[3]), (top, tall, images.shape[2])):
        place = torch.arange(size, dtype=images.dtype, device=images.device) + 0.5
        place = (place * (extent / size) - 0.5).clamp(min=0).minimum(extent - 1) + start
        grid.append((2 * place + 1) / size - 1)  # as grid_sample counts: -1 and 1 are the edges
    x, y = grid
    both = torch.broadcast_tensors(x[:, None, :], y[:, :, None])
    return grid_sample(images, torch.stack(both, -1), padding_mode="border", align_corners=False)
