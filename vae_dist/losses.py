"""Loss terms in nats an image: likelihoods, KL divergence, weights and schedules."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar

import torch
from torch import Tensor

from data_pipeline.checks import Above, AtLeast, AtMost, Odd, check_fields
from data_pipeline.errors import UserError
from vae_dist.gradients import Bernoulli, Gaussian, Posterior, StandardKL
from vae_dist.metrics import ssim

LOG_SIGMA_MIN = -6.0  # a standard deviation of 1/400, less than one step of 8-bit grey
SIGMA_MIN = 0.0025  # the same, rounded up


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The objective: likelihood, prior, and how their terms are weighted."""

    image_loss_type: Literal["bce", "mse", "ssim", "gaussian"] = "bce"
    """Likelihood: of pixels Bernoulli (bce), Gaussian (mse), or exp(-pixels x (1 - SSIM)) (ssim);
    of data that are no pixels, such as latents, Gaussian with a mean of any value (gaussian)."""

    ssim_window_size: Annotated[int, AtLeast(1), Odd()] = 5
    """Window of the SSIM loss and of the metric named ssim; odd."""

    ssim_scale: Annotated[float, Above(0)] = 1.0
    """Nats a pixel that the SSIM loss charges for 1 - SSIM = 1."""

    mse_variance: Literal["learned", "fixed"] = "learned"
    """Whether the Gaussian's variance, one for all pixels or values, is learned."""

    mse_sigma: Annotated[float, Above(SIGMA_MIN)] = 0.1
    """The Gaussian's standard deviation, or where its learning begins."""

    img_loss_weight: Annotated[float, AtLeast(0)] = 1.0
    """Weight of the reconstruction term."""

    kl_loss_weight: Annotated[float, AtLeast(0)] = 1.0
    """Weight of the KL term (the beta of a beta-VAE), which the schedule approaches."""

    do_running_mean: bool = False
    """Weight each term by one less its share in the running means of both."""

    kl_schedule: Literal["constant", "warmup", "cyclical"] = "constant"
    """How the KL weight comes to its value: at once, by one linear rise, or by repeated ones."""

    kl_warmup: Annotated[float, Above(0), AtMost(1)] = 0.25
    """Length of the rise, as a fraction of the run (warmup) or of each cycle (cyclical)."""

    kl_cycles: Annotated[int, AtLeast(1)] = 4
    """Number of cycles in the run (cyclical)."""

    free_bits: Annotated[float, AtLeast(0)] = 0.0
    """Nats that each latent of each image may use before its KL is charged."""

    objective: Literal["elbo", "iwae"] = "elbo"
    """Bound that is maximised: the ELBO or the importance-weighted one."""

    importance_samples: Annotated[int, AtLeast(1)] = 1
    """Latent samples an image; elbo averages over them."""

    prior: Literal["standard", "mixture", "vamp", "flow"] = "standard"
    """p(z): a standard normal, a learned mixture of normals, a VampPrior, or a standard normal bent
    by learned affine couplings (flow)."""

    prior_components: Annotated[int, AtLeast(1)] = 32
    """Components of a mixture or vamp prior."""

    prior_couplings: Annotated[int, AtLeast(1)] = 8
    """Coupling layers of a flow prior."""

    prior_width: Annotated[int, AtLeast(1)] = 128
    """Hidden units of each coupling of a flow prior."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.free_bits and self.prior != "standard":
            raise UserError(f"--free-bits {self.free_bits}: needs --prior standard")
        if self.objective == "iwae" and (self.weighted or self.free_bits or self.do_running_mean):
            raise UserError(
                "--objective iwae: the bound has no separate terms to weight; Fix: without"
                " --img-loss-weight, --kl-loss-weight, --kl-schedule, --free-bits"
                " and --do-running-mean"
            )

    @property
    def weighted(self) -> bool:
        """Whether the terms are given weights of their own."""
        weights = (self.img_loss_weight, self.kl_loss_weight, self.kl_schedule)
        return weights != (1.0, 1.0, "constant")

    @property
    def of_pixels(self) -> bool:
        """Whether the likelihood is of pixels in [0, 1]."""
        return self.image_loss_type != "gaussian"


def kl_weight_at(config: LossConfig, step: int, total_steps: int) -> float:
    """Weight of the KL term at optimizer step ``step`` of ``total_steps``, counting from 0."""
    if config.kl_schedule == "constant":
        return config.kl_loss_weight
    cycles = config.kl_cycles if config.kl_schedule == "cyclical" else 1
    period = max(1.0, total_steps / cycles)
    position = min(step, total_steps - 1) % period / period
    return config.kl_loss_weight * min(1.0, position / config.kl_warmup)


Number = TypeVar("Number", float, Tensor)


def balance(running_recon: Number, running_kl: Number) -> tuple[Number, Number]:
    """Weights of both terms from their running means (``--do-running-mean``).

    Each is one less the term's share of the sum, so the smaller term weighs more; both are
    a half where both means are equal or zero. Floats or tensors; a tensor is not read back.
    """
    total = running_recon + running_kl + 1e-10
    recon, kl = (running_recon + 5e-11) / total, (running_kl + 5e-11) / total
    return 1 - recon, 1 - kl


def bce_nats(logits: Tensor, images: Tensor, value: bool = True) -> Tensor:
    """Bernoulli: the expected negative log-likelihood of images drawn pixel by pixel.

    A grey level is read as the probability that the binary pixel is 1. Never negative, and
    not zero for a perfect reconstruction: it then equals the entropy of the grey levels.
    Without ``value`` only the gradient is right.
    """
    return Bernoulli.apply(logits, images, value)


def gaussian_nats(logits: Tensor, images: Tensor, log_sigma: Tensor) -> Tensor:
    """Gaussian: the negative log-density at pixels in [0, 1], mean sigmoid(logits).

    One standard deviation for all pixels; the squared error is thereby divided by
    2 sigma^2, which is the scale that a bare sum of squares lacks. A density's negative
    logarithm may be below zero. Adding ``C x H x W x log(255)`` turns it into nats of the
    8-bit image.
    """
    return Gaussian.apply(logits, images, log_sigma)


def unbounded_gaussian_nats(mean: Tensor, values: Tensor, log_sigma: Tensor) -> Tensor:
    """Gaussian: the negative log-density at values that are no pixels, about any mean."""
    squares = (mean - values).square().flatten(1).sum(1)
    constant = log_sigma + 0.5 * math.log(2 * math.pi)
    return 0.5 * torch.exp(-2 * log_sigma) * squares + math.prod(values.shape[1:]) * constant


def ssim_nats(logits: Tensor, images: Tensor, window: int, scale: float) -> Tensor:
    """Gibbs likelihood of the structural similarity: p(x|z) ~ exp(-scale x pixels x (1 - SSIM)).

    For equal means, 1 - SSIM is about the squared error over twice the local variance, so
    with scale 1 this is a Gaussian whose standard deviation is the local contrast. The
    factor ``pixels`` (C x H x W) is what makes it train: 1 - SSIM alone is less than two
    nats an image, and the KL term then switches every latent off. The normaliser, which
    has no closed form, is not included, so values compare within this likelihood only.
    """
    pixels = math.prod(images.shape[1:])
    return scale * pixels * (1 - ssim(torch.sigmoid(logits), images, window))


def kl_standard(mu: Tensor, logvar: Tensor, value: bool = True) -> Tensor:
    """KL(q(z|x) || N(0, 1)) of each latent, the shape of ``mu``.

    Without ``value`` only the gradient is right.
    """
    return StandardKL.apply(mu, logvar, value)


def sample_and_kl(
    mu: Tensor, logvar: Tensor, noise: Tensor, value: bool = True
) -> tuple[Tensor, Tensor]:
    """Samples of q(z|x) (n, K, z) from standard normal numbers of that shape, and `kl_standard`."""
    return Posterior.apply(mu, logvar, noise, value)


def log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    """Log-density of a diagonal normal, summed over the last dimension."""
    squares = (z - mu).square() * torch.exp(-logvar)
    return -0.5 * (squares + logvar + math.log(2 * math.pi)).sum(-1)
