"""What a trained model draws: samples, reconstructions, walks through its latents.

One place for all who draw: `vae_dist.load_run`, ``vae-dist sample`` and the report.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from data_pipeline.order import derive_seed
from vae_dist.objective import Objective

CHUNK, CHUNK_PIXELS = 500, 1 << 23
CPU_PIXELS = 1 << 18
"""As many values pass through a convolutional network from a CPU's cache: at 128 pixels and width
16, 2**23 at once take three times as long an image."""


def chunk_size(image_shape: tuple[int, ...]) -> int:
    """Images that are computed at a time.

    It follows from the shape alone: the same images give the same bytes on every machine of a
    kind, whatever else is asked for in the same call.
    """
    return max(1, min(CHUNK, CHUNK_PIXELS // math.prod(image_shape)))


def at_once(image_shape: tuple[int, ...], device: torch.device) -> int:
    """Images of a chunk that a model is given at once: on a CPU as many as its cache takes."""
    return min(chunk_size(image_shape), max(1, pixels_at_once(device) // math.prod(image_shape)))


def pixels_at_once(device: torch.device) -> int:
    """Values of images that a model on this device is given at once."""
    return CPU_PIXELS if device.type == "cpu" else CHUNK_PIXELS


def images_of(objective: Objective, z: Tensor, labels: Tensor | None = None) -> Tensor:
    """Mean images of latents, a chunk at a time.

    Parameters
    ----------
    objective : Objective
        In evaluation mode.
    z : Tensor
        (..., z).
    labels : Tensor, optional
        int64, of a shape that expands to ``z.shape[:-1]``; read by a conditional model alone.

    Returns
    -------
    Tensor
        (..., C, H, W), float32 in [0, 1].
    """
    model = objective.model
    size = at_once(model.image_shape, z.device)
    rows = z.flatten(0, -2).split(size)
    flat = None if labels is None else labels.expand(z.shape[:-1]).flatten().split(size)
    parts = [
        objective.mean_image(model.decode(part, None if flat is None else flat[i]))
        for i, part in enumerate(rows)
    ]
    return torch.cat(parts).unflatten(0, z.shape[:-1])


def means(objective: Objective, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """mu (n, z) of images (n, C, H, W) in [0, 1], a chunk at a time; labels are (n,)."""
    size = at_once(objective.model.image_shape, images.device)
    parts = images.split(size)
    given = [None] * len(parts) if labels is None else labels.split(size)
    pairs = zip(parts, given, strict=True)
    return torch.cat([objective.model.encode(*pair)[0] for pair in pairs])


def reconstruct(objective: Objective, images: Tensor, labels: Tensor | None = None) -> Tensor:
    """Mean images from z = mu of images (n, C, H, W) in [0, 1]; labels are (n,)."""
    return images_of(objective, means(objective, images, labels), labels)


def generator(device: torch.device, seed: int, purpose: str = "sample") -> torch.Generator:
    """Random numbers of a device that follow from a seed and from what they are for."""
    return torch.Generator(device).manual_seed(derive_seed(seed, purpose))


def noise(count: int, samples: int, size: int, seed: int, device: torch.device) -> Tensor:
    """Standard normal noise (count, samples, size) of a likelihood; the same on every device."""
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(count, samples, size, generator=drawn).to(device)


def latents(
    objective: Objective, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor | None]:
    """Latents (count, z) drawn from the prior, and a conditional model's classes in turn (count,).

    Parameters
    ----------
    objective : Objective
    count : int
    generator : torch.Generator
        On the model's device.
    """
    z = objective.prior.sample(count, objective.model, generator)
    classes = objective.model.num_classes
    return z, torch.arange(count, device=z.device) % classes if classes else None


def sample(objective: Objective, count: int, generator: torch.Generator) -> Tensor:
    """Mean images (count, C, H, W) of what `latents` draws."""
    return images_of(objective, *latents(objective, count, generator))


def interpolate(
    objective: Objective, start: Tensor, end: Tensor, columns: int, labels: Tensor | None = None
) -> Tensor:
    """Images (n, columns, C, H, W) along straight lines between latents, both (n, z).

    Labels (n,) stay the same along a line.
    """
    where = torch.linspace(0, 1, columns, device=start.device)[None, :, None]
    z = torch.lerp(start[:, None], end[:, None], where)
    return images_of(objective, z, None if labels is None else labels[:, None])


def traverse(
    objective: Objective,
    z: Tensor,
    scale: Tensor,
    rows: int,
    columns: int,
    label: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A row of images a latent, which goes from -3 to 3 times its scale while the others stay.

    Parameters
    ----------
    objective : Objective
    z : Tensor
        (z,), where the walk begins.
    scale : Tensor
        (z,), the standard deviation of the images' mu by latent. The most active latent is
        the first row.
    rows, columns : int
        Latents that are moved, at most, and steps of each.
    label : Tensor, optional
        (1,).

    Returns
    -------
    images : Tensor
        (rows, columns, C, H, W).
    latents : Tensor
        (rows,), int64: the latent of each row.
    """
    order = scale.argsort(descending=True, stable=True)[:rows]
    steps = torch.linspace(-3, 3, columns, device=z.device)
    moved = z.expand(len(order), columns, -1).clone()
    moved[torch.arange(len(order), device=z.device), :, order] = scale[order, None] * steps
    return images_of(objective, moved, label), order
