"""Augmentation in batches on the device: horizontal flip and rotation."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from data_pipeline.batch import Batch
from data_pipeline.philox import Draws, uniform


class Augment:
    """Flip and rotate the images of a batch.

    What happens to an image follows from the seed, the epoch, the step and its position in
    the global batch: it does not depend on the number of processes or on the device.

    Parameters
    ----------
    seed : int
        The run's seed.
    flip_probability : float
        Of a horizontal flip.
    max_angle : float
        Degrees; the angle is uniform between this to the left and to the right.
    """

    def __init__(self, seed: int, flip_probability: float = 0.25, max_angle: float = 30.0) -> None:
        self.seed = seed
        self.flip_probability = flip_probability
        self.max_angle = max_angle
        self._draws: Draws | None = None

    def parameters(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Whether each image is flipped, and the angle it is turned by, on a device."""
        if self._draws is None or self._draws.device != device:
            self._draws = Draws(self.seed, "augment", 2, device, uniform)
        flip, turn = self._draws(batch).unbind(1)
        return flip < self.flip_probability, (2 * turn - 1) * self.max_angle

    def __call__(self, images: Tensor, batch: Batch) -> Tensor:
        """Augment images.

        Parameters
        ----------
        images : Tensor
            float, ``(n, C, H, W)``, the images of `batch` on any device. What a rotation
            turns in from outside is 0.
        batch : Batch
            The counters and positions.

        Returns
        -------
        Tensor
            Of the same shape, type and device.
        """
        if len(images) == 0:
            return images
        flipped, angle = self.parameters(batch, images.device)
        images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
        return rotate(images, angle.to(images.dtype))


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn images about their centres, counter-clockwise, by bilinear interpolation.

    Parameters
    ----------
    images : Tensor
        float, ``(n, C, H, W)``.
    degrees : Tensor
        ``(n,)``, of the same type and on the same device.

    Returns
    -------
    Tensor
        Of the same shape; 0 where nothing was.
    """
    height, width = images.shape[2:]
    angle = torch.deg2rad(degrees)[:, None, None]
    x, y = (
        torch.arange(size, dtype=images.dtype, device=images.device) - (size - 1) / 2
        for size in (width, height)
    )
    y = y[:, None]
    # Where each pixel comes from, as grid_sample counts: -1 and 1 are the image's edges.
    from_x = (angle.cos() * x - angle.sin() * y) * (2 / width)
    from_y = (angle.sin() * x + angle.cos() * y) * (2 / height)
    return grid_sample(images, torch.stack([from_x, from_y], -1), align_corners=False)
