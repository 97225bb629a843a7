"""Brightness, contrast, saturation and hue: torchvision's arithmetic, a factor an image."""

from __future__ import annotations

import torch
from torch import Tensor

_GREY = (0.2989, 0.587, 0.114)


def jitter(
    images: Tensor,
    draws: Tensor,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
) -> Tensor:
    """Change the colours of images as torchvision's ``ColorJitter`` does, always in this order.

    Parameters
    ----------
    images : Tensor
        float, ``(n, C, H, W)``, in [0, 1]. With 3 channels they are red, green and blue. With
        any other number all channels are changed alike, the mean over all of them is the grey
        level, and there is neither saturation nor hue.
    draws : Tensor
        Uniform in [0, 1), ``(n, 4)``, one for each of the four.
    brightness, contrast, saturation : float
        Factors lie in 1 - this to 1 + this, at least 0.
    hue : float
        Hues turn by up to this share of the circle, to either side.

    Returns
    -------
    Tensor
        Of the same shape and type, in [0, 1].
    """
    draws = draws.to(images.dtype)[:, :, None, None, None]
    bright, contrasted, saturated = (
        low + draws[:, column] * (1 + strength - low)
        for column, strength in enumerate((brightness, contrast, saturation))
        for low in [max(0.0, 1 - strength)]
    )
    images = (images * bright).clamp(0, 1)
    images = _blend(images, grey(images).mean((1, 2, 3), keepdim=True), contrasted)
    if images.shape[1] == 3:
        images = _blend(images, grey(images), saturated)
        images = turn_hue(images, (2 * draws[:, 3, 0] - 1) * hue)
    return images


def grey(images: Tensor) -> Tensor:
    """Grey levels, ``(n, 1, H, W)``: of three channels the weighted mean, of others the mean."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.split(1, 1)
    return _GREY[0] * red + _GREY[1] * green + _GREY[2] * blue


def _blend(images: Tensor, others: Tensor, factor: Tensor) -> Tensor:
    return (factor * images + (1 - factor) * others).clamp(0, 1)


def turn_hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turn the hues of RGB images by shares of the circle, ``(n, 1, 1)``."""
    red, green, blue = images.unbind(1)
    value, low = images.amax(1), images.amin(1)
    spread = value - low
    by = torch.where(spread == 0, 1, spread)
    hue = torch.where(
        value == red,
        (green - blue) / by,
        torch.where(value == green, 2 + (blue - red) / by, 4 + (red - green) / by),
    )
    hue = hue + 6 * shift
    planes = []
    for start in (5, 3, 1):
        place = (hue + start).remainder(6)
        planes.append(value - spread * torch.minimum(place, 4 - place).clamp(0, 1))
    return torch.stack(planes, 1)
