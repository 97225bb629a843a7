"""Terms of the loss whose gradients are written down.

Autograd would keep a tensor of the size of the images for each operation of a formula and read
all of them again; the gradients are simple, and one such tensor is enough. Inputs are fp32 (or
fp64), and so is all that is computed of them.

The last operation of a ``forward`` is never one in place: torch.compile of torch 2.11 then gives
another gradient than the one written down.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Bernoulli(torch.autograd.Function):
    """Cross-entropy of images and logits, (n,) from (n, ...) each; its gradient is p - x.

    Without ``value`` what comes out is the sum of the logits: finite where they are.
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, images: Tensor, value: bool = True) -> Tensor:
        flat, x = logits.flatten(1), images.flatten(1)
        p = torch.sigmoid(flat)
        nats = _cross_entropy(flat, x, p) if value else flat.sum(1)
        ctx.save_for_backward(p.sub_(x).view(logits.shape))
        return nats

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (residual,) = ctx.saved_tensors
        return residual * _across(grad, residual), None, None


class Gaussian(torch.autograd.Function):
    """Negative log-density (n,) of images (n, ...) about sigmoid(logits); log_sigma is 0-d."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, images: Tensor, log_sigma: Tensor) -> Tensor:
        flat, x = logits.flatten(1), images.flatten(1)
        p = torch.sigmoid(flat)
        residual = p - x
        squares = residual.square().sum(1)
        precision = torch.exp(-2 * log_sigma)
        pixels = x.shape[1]
        constant = log_sigma + 0.5 * math.log(2 * math.pi)
        # d/dl of half the squares: residual * p * (1 - p)
        slope = residual.mul_(p).mul_(p.neg_().add_(1)).view(logits.shape)
        ctx.save_for_backward(slope, squares, precision)
        ctx.pixels = pixels
        return 0.5 * precision * squares + pixels * constant

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        slope, squares, precision = ctx.saved_tensors
        logits = slope * _across(grad * precision, slope)
        return logits, None, (grad * (ctx.pixels - squares * precision)).sum()


class StandardKL(torch.autograd.Function):
    """KL(N(mu, exp(logvar)) || N(0, 1)) of each latent, the shape of both.

    Without ``value`` what comes out is the variance.
    """

    @staticmethod
    def forward(ctx: Any, mu: Tensor, logvar: Tensor, value: bool = True) -> Tensor:
        variance = logvar.exp()
        ctx.save_for_backward(mu, variance)
        if not value:
            return variance
        return (mu * mu).add_(variance).sub_(logvar).sub_(1) * 0.5

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        mu, variance = ctx.saved_tensors
        return grad * mu, (variance - 1).mul_(grad).mul_(0.5), None


class Posterior(torch.autograd.Function):
    """Samples and KL of N(mu, exp(logvar)): z (n, K, z) from noise (n, K, z), then `StandardKL`."""

    @staticmethod
    def forward(
        ctx: Any, mu: Tensor, logvar: Tensor, noise: Tensor, value: bool = True
    ) -> tuple[Tensor, Tensor]:
        deviation, variance = torch.exp(0.5 * logvar), logvar.exp()
        z = mu[:, None] + noise * deviation[:, None]
        ctx.save_for_backward(mu, deviation, variance, noise)
        if not value:
            return z, variance
        return z, (mu * mu).add_(variance).sub_(logvar).sub_(1) * 0.5

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_z: Tensor, of_kl: Tensor) -> tuple[Tensor, Tensor, None, None]:
        mu, deviation, variance, noise = ctx.saved_tensors
        to_mu, to_deviation = _over_samples(of_z), _over_samples(of_z * noise)
        through_logvar = (variance - 1).mul_(of_kl).mul_(0.5)
        return (
            to_mu + of_kl * mu,
            through_logvar.add_(to_deviation * deviation, alpha=0.5),
            None,
            None,
        )


class Squeeze(torch.autograd.Function):
    """``x`` within `inner` of zero; beyond, its distance from there is squeezed below `extra`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, inner: float, extra: float) -> Tensor:
        within = x.clamp(-inner, inner)
        beyond = (x - within).div_(extra).tanh_()
        ctx.save_for_backward(beyond)
        return within.add(beyond, alpha=extra)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (beyond,) = ctx.saved_tensors
        return torch.addcmul(grad, grad * beyond, beyond, value=-1), None, None


def _over_samples(grad: Tensor) -> Tensor:
    return grad[:, 0] if grad.shape[1] == 1 else grad.sum(1)


def _cross_entropy(logits: Tensor, x: Tensor, p: Tensor) -> Tensor:
    """Of rows (n, pixels); ``p`` is sigmoid(logits)."""
    # log(1 + exp(-|l|)) is -log of the larger of p and 1 - p, which is half at least: a
    # product of up to 96 of them is a normal number, and takes one logarithm.
    larger = (p - 0.5).abs_().add_(0.5)
    pixels = logits.shape[1]
    group = _group(pixels)
    rest = larger.view(len(x), group, pixels // group).prod(1).log_().sum(1)
    return logits.clamp(min=0).addcmul_(logits, x, value=-1).sum(1) - rest


def _group(pixels: int) -> int:
    """Largest divisor up to 96."""
    size = min(pixels, 96)
    while pixels % size:
        size -= 1
    return size


def _across(each: Tensor, like: Tensor) -> Tensor:
    """Numbers of images, to be multiplied with the images' pixels."""
    return each.view(-1, *[1] * (like.ndim - 1))
