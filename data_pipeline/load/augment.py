"""Augmentation in batches on the device: crop, flip, rotation, colour, erasure."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from data_pipeline.batch import Batch
from data_pipeline.checks import AtLeast, OneOf, Within, check_fields, flag_of
from data_pipeline.errors import UserError, nearest
from data_pipeline.load.colour import jitter
from data_pipeline.load.crop import BOX_DRAWS, crop, crop_boxes, parse_range
from data_pipeline.philox import Draws, uniform

AUGMENTATIONS = ("crop", "flip", "rotate", "colour", "erase")
"""In the order in which they are done."""
ARTICLE2018 = ("flip", "rotate")
"""What ``--do-augs True`` stands for."""
_SETTINGS = {
    "crop": ("crop_scale", "crop_ratio"),
    "colour": ("brightness", "contrast", "saturation", "hue"),
    "erase": ("erase_scale",),
}
_ERASE_RATIO = (0.3, 1 / 0.3)


@dataclass(kw_only=True)
class AugmentConfig:
    """How training images are augmented; validation and evaluation see them as they are."""

    augment: str = ""
    """List of crop, flip, rotate, colour, erase, as in flip,crop; always done in this order. crop:
    random resized crop; flip: horizontal, p 0.25; rotate: up to 30 degrees; colour: brightness and
    contrast, of 3 channels saturation and hue too; erase: a random rectangle becomes black."""
    augment_target: Annotated[str, OneOf("augmented", "original")] = "augmented"
    """What is reconstructed: the augmented image, or the one that it was made from, of which the
    encoder then sees only the augmented form (a denoising VAE)."""
    crop_scale: str = "0.08,1"
    """crop: LOWEST,HIGHEST share of the image's area that is kept."""
    crop_ratio: str = "0.75,1.3333333333333333"
    """crop: LOWEST,HIGHEST width over height of what is kept."""
    brightness: Annotated[float, AtLeast(0)] = 0.4
    """colour: pixels are multiplied by 1 - this to 1 + this (at least 0)."""
    contrast: Annotated[float, AtLeast(0)] = 0.4
    """colour: so are their distances from the image's mean grey level."""
    saturation: Annotated[float, AtLeast(0)] = 0.4
    """colour: so are their distances from their own grey level."""
    hue: Annotated[float, Within(0, 0.5)] = 0.1
    """colour: hues turn by up to this share of the colour circle, to either side."""
    erase_scale: str = "0.02,0.33"
    """erase: LOWEST,HIGHEST share of the image's area that becomes black."""

    def __post_init__(self) -> None:
        check_fields(self)
        for name in self.names:
            if name not in AUGMENTATIONS:
                raise UserError(f"--augment {self.augment}: {nearest(name, AUGMENTATIONS)}")
            if self.names.count(name) > 1:
                raise UserError(f"--augment {self.augment}: names {name} twice")
        parse_range("--crop-scale", self.crop_scale, most=1)
        parse_range("--crop-ratio", self.crop_ratio)
        parse_range("--erase-scale", self.erase_scale, most=1)
        for name, settings in _SETTINGS.items():
            for field in fields(self):
                given = getattr(self, field.name) != field.default
                if given and field.name in settings and name not in self.names:
                    warnings.warn(
                        f"{flag_of(field.name)} has no effect without --augment {name}",
                        stacklevel=3,
                    )

    @property
    def names(self) -> tuple[str, ...]:
        """The list, as it was given."""
        return tuple(name.strip() for name in self.augment.split(",")) if self.augment else ()

    @property
    def crop_ranges(self) -> tuple[tuple[float, float], tuple[float, float]]:
        """Of a crop's area and of its aspect ratio."""
        return (
            parse_range("--crop-scale", self.crop_scale, most=1),
            parse_range("--crop-ratio", self.crop_ratio),
        )

    def deciding(self, names: Sequence[str]) -> dict[str, Any]:
        """What decides the augmented images: what is done, and the settings of that."""
        settings = asdict(self)
        done = [name for name in AUGMENTATIONS if name in names]
        return {
            "augment": ",".join(done),
            **({"augment_target": "original"} if self.augment_target == "original" else {}),
            **{field: settings[field] for name in done for field in _SETTINGS.get(name, ())},
        }


class Augment:
    """Augment the images of a batch.

    What happens to an image follows from the seed, the epoch, the step and its position in
    the global batch: it does not depend on the number of processes or on the device. Each
    augmentation draws numbers of its own, so that one does the same with and without the others.

    Parameters
    ----------
    seed : int
        The run's seed.
    names : sequence of str
        Which of `AUGMENTATIONS`.
    config : AugmentConfig, optional
        Their settings.
    flip_probability : float
        Of a horizontal flip.
    max_angle : float
        Degrees; the angle is uniform between this to the left and to the right.
    """

    def __init__(
        self,
        seed: int,
        names: Sequence[str] = ARTICLE2018,
        config: AugmentConfig | None = None,
        *,
        flip_probability: float = 0.25,
        max_angle: float = 30.0,
    ) -> None:
        self.seed = seed
        self.names = tuple(names)
        self.config = config or AugmentConfig()
        self.flip_probability = flip_probability
        self.max_angle = max_angle
        self._draws: dict[str, Draws] = {}

    def parameters(self, batch: Batch, device: torch.device) -> tuple[Tensor, Tensor]:
        """Whether each image is flipped, and the angle it is turned by, on a device."""
        flip, turn = self._drawn("augment", 2, batch, device).unbind(1)
        return flip < self.flip_probability, (2 * turn - 1) * self.max_angle

    def _drawn(self, purpose: str, columns: int, batch: Batch, device: torch.device) -> Tensor:
        held = self._draws.get(purpose)
        if held is None or held.device != device:
            held = self._draws[purpose] = Draws(self.seed, purpose, columns, device, uniform)
        return held(batch)

    def __call__(self, images: Tensor, batch: Batch) -> Tensor:
        """Augment images.

        Parameters
        ----------
        images : Tensor
            float, ``(n, C, H, W)`` in [0, 1], the images of `batch` on any device. What a
            rotation turns in from outside is 0.
        batch : Batch
            The counters and positions.

        Returns
        -------
        Tensor
            Of the same shape, type and device.
        """
        if len(images) == 0:
            return images
        device = images.device
        if "crop" in self.names:
            draws = self._drawn("crop", BOX_DRAWS, batch, device)
            height, width = images.shape[2:]
            images = crop(images, crop_boxes(draws, height, width, *self.config.crop_ranges))
        if "flip" in self.names or "rotate" in self.names:
            flipped, angle = self.parameters(batch, device)
            if "flip" in self.names:
                images = torch.where(flipped[:, None, None, None], images.flip(-1), images)
            if "rotate" in self.names:
                images = rotate(images, angle.to(images.dtype))
        if "colour" in self.names:
            config = self.config
            strength = (config.brightness, config.contrast, config.saturation, config.hue)
            images = jitter(images, self._drawn("colour", 4, batch, device), *strength)
        if "erase" in self.names:
            draws = self._drawn("erase", BOX_DRAWS, batch, device)
            height, width = images.shape[2:]
            scale = parse_range("--erase-scale", self.config.erase_scale, most=1)
            images = erase(images, crop_boxes(draws, height, width, scale, _ERASE_RATIO))
        return images


def erase(images: Tensor, boxes: Tensor) -> Tensor:
    """Make a box of each image black (Zhong et al., "Random erasing data augmentation", 2020).

    Parameters
    ----------
    images : Tensor
        ``(n, C, H, W)``.
    boxes : Tensor
        Of `crop_boxes`, within the images.

    Returns
    -------
    Tensor
        Of the same shape.
    """
    top, left, tall, wide = boxes[:, :, None].unbind(1)
    rows, columns = (torch.arange(size, device=images.device) for size in images.shape[2:])
    high = (rows >= top) & (rows < top + tall)
    across = (columns >= left) & (columns < left + wide)
    return images.masked_fill((high[:, :, None] & across[:, None, :])[:, None], 0)


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
