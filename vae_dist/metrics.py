"""Image metrics: pure functions of tensors, one figure an image, fp32."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from data_pipeline.errors import UserError

if TYPE_CHECKING:
    from vae_dist.objective import Objective, Posterior

C1, C2 = 0.01**2, 0.03**2


def _gaussian(window: int, sigma: float) -> list[float]:
    offsets = range(-(window // 2), window - window // 2)
    weights = [math.exp(-(offset**2) / (2 * sigma**2)) for offset in offsets]
    return [weight / sum(weights) for weight in weights]


def _blur(images: Tensor, kernel: list[float], padding: int) -> Tensor:
    """Weighted mean over a window, rows and columns one after the other.

    On a CPU as products with banded matrices, which is fastest there. Elsewhere as sums of
    shifted images: these stay in full fp32 where a product or convolution may fall to
    TF32, whose error would drown the small local variances.
    """
    if images.device.type == "cpu":
        rows, columns = (_band(side, kernel, padding) for side in images.shape[2:])
        return rows @ images @ columns.T
    return _shifted_sums(images, kernel, padding)


def _band(side: int, kernel: list[float], padding: int) -> Tensor:
    """Matrix (outputs, side) that averages a vector over a sliding window."""
    window = len(kernel)
    start = torch.arange(side + 2 * padding - window + 1)[:, None] - padding
    offset = torch.arange(side) - start
    inside = (offset >= 0) & (offset < window)
    return torch.where(inside, torch.tensor(kernel)[offset.clamp(0, window - 1)], 0.0)


def _shifted_sums(images: Tensor, kernel: list[float], padding: int) -> Tensor:
    images = F.pad(images, (padding, padding, padding, padding))
    for dim in (2, 3):
        size = images.shape[dim] - len(kernel) + 1
        total = images.narrow(dim, 0, size) * kernel[0]
        for shift, weight in enumerate(kernel[1:], 1):
            total = total + images.narrow(dim, shift, size) * weight
        images = total
    return images


def _ssim(x: Tensor, y: Tensor, window: int, padding: int) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        x, y = x.float(), y.float()
        moments = torch.cat([x, y, x * x, y * y, x * y])
        mean_x, mean_y, xx, yy, xy = _blur(moments, _gaussian(window, 1.5), padding).chunk(5)
        product, squares = mean_x * mean_y, mean_x**2 + mean_y**2
        luminance = (2 * product + C1) / (squares + C1)
        structure = (2 * (xy - product) + C2) / (xx + yy - squares + C2)
        return (luminance * structure).mean(dim=(1, 2, 3))


def ssim(x: Tensor, y: Tensor, window: int = 5) -> Tensor:
    """Structural similarity as the 2018 program defines it: Gaussian window, sigma 1.5, zero padding.

    Parameters
    ----------
    x, y : Tensor
        Images (n, C, H, W) in [0, 1].
    window : int
        Odd side of the window.

    Returns
    -------
    Tensor
        (n,), the mean over pixels and channels.
    """
    return _ssim(x, y, window, window // 2)


def ssim11(x: Tensor, y: Tensor) -> Tensor:
    """Structural similarity as Wang et al. (2004) define it: window 11, sigma 1.5, valid region.

    For images under 11 pixels the window is the largest odd one that fits.
    """
    side = min(11, *x.shape[2:])
    return _ssim(x, y, side if side % 2 else side - 1, 0)


def mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of each image (n,)."""
    return (x.float() - y.float()).square().mean(dim=(1, 2, 3))


def psnr(x: Tensor, y: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, in dB, for a peak of 1; at most 100."""
    return -10 * torch.log10(mse(x, y).clamp(min=1e-10))


@torch.no_grad()
def iw_nll(
    objective: Objective,
    images: Tensor,
    noise: Iterable[Tensor],
    labels: Tensor | None = None,
    posterior: Posterior | None = None,
) -> Tensor:
    """Importance-weighted negative log-likelihood of each image (n,), in nats.

    The bound of Burda et al. (2016), which falls to the true value as samples grow.

    Parameters
    ----------
    objective : Objective
    images : Tensor
        (n, C, H, W) in [0, 1].
    noise : iterable of Tensor
        Parts (n, k, z) of the standard normal noise; their k add up to the samples an image.
    labels : Tensor, optional
        (n,), for a conditional model: the figure is then -log p(x | label).
    posterior : pair of Tensor, optional
        mu and logvar of the images, where they were encoded before.
    """
    posterior = posterior or objective.model.encode(images, labels)
    total, samples = None, 0
    for part in noise:
        weights = torch.logsumexp(
            objective.log_weights(images, part, labels, posterior).double(), dim=1
        )
        total = weights if total is None else torch.logaddexp(total, weights)
        samples += part.shape[1]
    if total is None:
        raise UserError("iw_nll: no noise, so no samples")
    return math.log(samples) - total
