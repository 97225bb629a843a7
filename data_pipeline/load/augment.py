"""Augmentation in batches on the device: horizontal flip and rotation."""

from __future__ import annotations

import torch
from torch import Tensor

from data_pipeline.batch import Batch
from data_pipeline.order import derive_seed


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
        from kornia.geometry.transform import rotate

        self.seed = seed
        self.flip_probability = flip_probability
        self.max_angle = max_angle
        self._rotate = rotate

    def parameters(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Whether each image is flipped, and the angle it is turned by.

        Drawn on the CPU for the whole global batch; this process's part is taken on the
        device where `batch` lies, without waiting for it.
        """
        generator = torch.Generator("cpu")
        generator.manual_seed(derive_seed(self.seed, "augment", batch.epoch, batch.step))
        draws = torch.rand(2, batch.size, generator=generator, device="cpu")
        draws = draws.to(batch.position.device, non_blocking=True)[:, batch.position]
        return draws[0] < self.flip_probability, (2 * draws[1] - 1) * self.max_angle

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
        flipped, angle = self.parameters(batch)
        flipped = flipped.to(images.device, non_blocking=True)[:, None, None, None]
        angle = angle.to(images.device, images.dtype, non_blocking=True)
        return self._rotate(torch.where(flipped, images.flip(-1), images), angle)
