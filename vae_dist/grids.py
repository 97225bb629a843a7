"""Grids of what a trained model draws, as pictures, and the likelihood of images."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_pipeline.order import derive_seed
from data_pipeline.values import Values
from vae_dist import draw
from vae_dist.metrics import iw_nll
from vae_dist.objective import Objective

GAP = 2  # white pixels between two images of a grid
MOST_ROWS, MOST_PIXELS = 100, 1 << 25
"""Of a picture of traversals; ten rows are shown of images of any size."""


def tile(images: Tensor, gap: int = GAP) -> np.ndarray:
    """Put images side by side.

    Parameters
    ----------
    images : Tensor
        (rows, columns, C, H, W) in [0, 1].
    gap : int
        White pixels between two images.

    Returns
    -------
    numpy.ndarray
        uint8 (height, width, 3) for three channels, else (height, width), of the first one.
    """
    rows, columns, channels, height, width = images.shape
    framed = images.new_ones(rows, columns, channels, height + gap, width + gap)
    framed[..., :height, :width] = images.clamp(0, 1)
    grid = framed.permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    grid = grid[: len(grid) - gap, : grid.shape[1] - gap]
    pixels = (grid * 255).round().byte().cpu().numpy()
    return pixels if channels == 3 else pixels[..., 0]


def write_png(path: Path, images: Tensor) -> None:
    """Write a grid of images (rows, columns, C, H, W), small ones enlarged."""
    from PIL import Image

    picture = Image.fromarray(tile(images))
    zoom = max(1, 56 // images.shape[-1])
    size = (picture.width * zoom, picture.height * zoom)
    picture.resize(size, Image.Resampling.NEAREST).save(path)


class Painter:
    """Draws grids (rows, columns, C, H, W) from one model, on its device.

    Parameters
    ----------
    objective : Objective
        In evaluation mode.
    seed : int
        Everything random here follows from it.
    values : Values
        What the stored values of images mean.
    """

    def __init__(self, objective: Objective, seed: int = 0, values: Values | None = None) -> None:
        self.values = values or Values()
        self.objective, self.model = objective, objective.model
        self.device = next(objective.parameters()).device
        self.seed = seed

    def take(self, images: Tensor) -> Tensor:
        """Images as they are stored as float in [0, 1], on the device."""
        return self.values.to_float(images.to(self.device))

    @torch.no_grad()
    def samples(self, rows: int = 8, columns: int = 8) -> Tensor:
        """What `Run.sample` draws with this seed; a conditional model's classes in turn."""
        generator = draw.generator(self.device, self.seed)
        drawn = draw.sample(self.objective, rows * columns, generator)
        return drawn.unflatten(0, (rows, columns))

    @torch.no_grad()
    def classes(self, columns: int = 10) -> Tensor:
        """A row a class, the same latents in each, for a conditional model."""
        classes = self.model.num_classes
        generator = draw.generator(self.device, self.seed, "classes")
        z = self.objective.prior.sample(columns, self.model, generator)
        labels = torch.arange(classes, device=self.device)[:, None]
        return draw.images_of(self.objective, z.expand(classes, columns, -1), labels)

    @torch.no_grad()
    def reconstructions(self, images: Tensor, labels: Tensor, columns: int = 10) -> Tensor:
        """Rows of originals, each over the row of its reconstructions from z = mu."""
        shown = draw.reconstruct(self.objective, images, labels)
        columns = min(columns, len(images))
        rows = len(images) // columns
        pairs = torch.stack([images, shown])[:, : rows * columns].unflatten(1, (rows, columns))
        return pairs.transpose(0, 1).flatten(0, 1)

    @torch.no_grad()
    def interpolations(self, images: Tensor, labels: Tensor, columns: int = 11) -> Tensor:
        """A row a pair of neighbours among the images: a straight line between their mu.

        A conditional model keeps the first image's label along the line.
        """
        mu = draw.means(self.objective, images, labels)
        last = 2 * (len(images) // 2)
        start, end = mu[0:last:2], mu[1:last:2]
        return draw.interpolate(self.objective, start, end, columns, labels[0:last:2])

    @torch.no_grad()
    def traversals(self, images: Tensor, labels: Tensor, columns: int = 11) -> Tensor:
        """A row a latent, moved from the first image's mu as the report does; see `draw.traverse`.

        Of many latents the most active ones: at most `MOST_ROWS`, fewer where images are large.
        """
        mu = draw.means(self.objective, images, labels)
        scale, label = mu.std(0, correction=0), labels[:1]
        fitting = MOST_PIXELS // (columns * math.prod(images.shape[2:]))
        rows = min(MOST_ROWS, max(10, fitting))
        return draw.traverse(self.objective, mu[0], scale, rows, columns, label)[0]

    @torch.no_grad()
    def manifold(self, images: Tensor, labels: Tensor, side: int = 20) -> Tensor:
        """The plane of the two largest principal components of the images' mu.

        The grid runs between two standard deviations of the mu on either side of their
        mean. With two latents this is the whole latent space; with one, a line. A
        conditional model is given no label.
        """
        mu = draw.means(self.objective, images, labels)
        mean = mu.mean(dim=0)
        _, scale, axes = torch.linalg.svd(mu - mean, full_matrices=False)
        axes = axes[:2] * scale[:2, None] / max(1, len(mu) - 1) ** 0.5
        line = torch.linspace(-2, 2, side, device=self.device)
        z = mean + line[None, :, None] * axes[0]
        if len(axes) > 1:
            z = z - line[:, None, None] * axes[1]
        return draw.images_of(self.objective, z)

    @torch.no_grad()
    def nll(
        self, images: Tensor, labels: Tensor, samples: int, chunk: int = 1000
    ) -> Iterator[tuple[float, float]]:
        """Negative log-likelihood and negative ELBO of each image, in nats.

        Each image's noise follows from the seed and from the image's position alone.

        Parameters
        ----------
        images, labels : Tensor
            (n, C, H, W), as they are stored, and (n,); moved to the device one by one.
        samples : int
            Importance samples an image.
        chunk : int
            Samples decoded at a time, at most; of large images fewer.
        """
        size = self.model.latent_size
        chunk = min(chunk, 2 * draw.chunk_size(self.model.image_shape))
        for i in range(len(images)):
            noise = draw.noise(1, samples, size, derive_seed(self.seed, "nll", i), self.device)
            image, label = self.take(images[i : i + 1]), labels[i : i + 1].to(self.device)
            bound = -self.objective.log_weights(image, noise[:, :chunk], label).mean()
            yield float(iw_nll(self.objective, image, noise.split(chunk, 1), label)), float(bound)
