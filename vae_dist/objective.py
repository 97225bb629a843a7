"""The module that is trained: a model, its likelihood and its prior."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vae_dist.losses import (
    LOG_SIGMA_MIN,
    LossConfig,
    bce_nats,
    gaussian_nats,
    kl_standard,
    log_normal,
    sample_and_kl,
    ssim_nats,
    unbounded_gaussian_nats,
)
from vae_dist.models import VAEModel
from vae_dist.priors import build_prior

Posterior = tuple[Tensor, Tensor]
"""mu and logvar (n, z) of q(z|x)."""


class Terms(NamedTuple):
    """What a forward pass gives of each image; fp32, but for the logits under autocast.

    Attributes
    ----------
    recon : Tensor
        (n,), negative log-likelihood in nats, averaged over the samples.
    kl : Tensor
        (n,), KL from the prior in nats: analytic for the standard one, else by the samples
        (without noise: an upper bound in closed form).
    kl_dim : Tensor
        (n, z), each latent's KL from N(0, 1), whatever the prior.
    mu, logvar : Tensor
        (n, z), of q(z|x).
    logits : Tensor
        (n, C, H, W), of the first sample.
    iwae : Tensor or None
        (n,), with ``--objective iwae``: the negative importance-weighted bound in nats; without
        noise it is recon + kl.
    """

    recon: Tensor
    kl: Tensor
    kl_dim: Tensor
    mu: Tensor
    logvar: Tensor
    logits: Tensor
    iwae: Tensor | None = None


class Objective(nn.Module):
    """Everything with parameters; what DistributedDataParallel wraps.

    Parameters
    ----------
    model : VAEModel
    config : LossConfig
    """

    def __init__(self, model: VAEModel, config: LossConfig) -> None:
        super().__init__()
        self.model = model
        self.config = config
        self.prior = build_prior(config, model)
        if config.image_loss_type in ("mse", "gaussian"):
            raw = math.log(math.expm1(math.log(config.mse_sigma) - LOG_SIGMA_MIN))
            learned = config.mse_variance == "learned"
            self.raw_log_sigma = nn.Parameter(torch.tensor(raw), requires_grad=learned)

    @property
    def log_sigma(self) -> Tensor:
        """Logarithm of the Gaussian likelihood's standard deviation."""
        return LOG_SIGMA_MIN + F.softplus(self.raw_log_sigma)

    def forward(
        self,
        images: Tensor,
        noise: Tensor | None = None,
        labels: Tensor | None = None,
        value: bool = True,
        targets: Tensor | None = None,
        posterior: Posterior | None = None,
    ) -> Terms:
        """Loss terms of each image, fp32 under any autocast, without weights or free bits.

        Parameters
        ----------
        images : Tensor
            (n, C, H, W), float: pixels in [0, 1], or what is encoded instead; n may be 0.
        noise : Tensor, optional
            (n, K, z), standard normal: K latent samples an image. None means z = mu, which
            gives a reconstruction error of the mean and no ELBO.
        labels : Tensor, optional
            (n,), for a conditional model.
        value : bool
            False where the terms are wanted for their gradients alone, which are the same, bit
            for bit. The terms' values may then be others, which are finite where they should be.
        targets : Tensor, optional
            (n, C, H, W), what is reconstructed in the place of the images themselves.
        posterior : pair of Tensor, optional
            mu and logvar, (n, z) each, of images that were encoded before.

        Returns
        -------
        Terms
        """
        value = value or not self.gradient_suffices
        mu, logvar, z, kl_dim, logits, nats = self._draw(
            images, noise, labels, value, targets, posterior
        )
        with _wide(images):
            standard, ratio = self.config.prior == "standard", None
            if noise is not None and not (standard and self._elbo):
                ratio = self._log_ratio(mu, logvar, z)
            if standard:
                kl = kl_dim.sum(1)
            else:
                kl = self.prior.kl(mu, logvar, self.model) if ratio is None else ratio.mean(1)
            iwae = None
            if not self._elbo:
                iwae = nats[:, 0] + kl
                if ratio is not None:
                    iwae = math.log(nats.shape[1]) - torch.logsumexp(-nats - ratio, dim=1)
            recon = nats.flatten() if nats.shape[1] == 1 else nats.mean(1)
        return Terms(recon, kl, kl_dim, mu, logvar, logits, iwae)

    @property
    def _elbo(self) -> bool:
        return self.config.objective == "elbo"

    @property
    def gradient_suffices(self) -> bool:
        """Whether the loss has the same gradient whatever the values of its terms are."""
        config = self.config
        return self._elbo and not config.free_bits and not config.do_running_mean

    def reconstruction(self, logits: Tensor, images: Tensor, value: bool = True) -> Tensor:
        """Negative log-likelihood of each image (n,), fp32, summed over pixels."""
        logits, images = logits.float(), images.float()
        if self.config.image_loss_type == "bce":
            return bce_nats(logits, images, value)
        if self.config.image_loss_type == "mse":
            return gaussian_nats(logits, images, self.log_sigma)
        if self.config.image_loss_type == "gaussian":
            return unbounded_gaussian_nats(logits, images, self.log_sigma)
        return ssim_nats(logits, images, self.config.ssim_window_size, self.config.ssim_scale)

    def combine(
        self,
        terms: Terms,
        *,
        beta: float | Tensor | None = None,
        weights: tuple[float | Tensor, float | Tensor] | None = None,
    ) -> Tensor:
        """Loss of each image (n,), in nats, from its terms.

        Parameters
        ----------
        terms : Terms
            What `forward` returned.
        beta : float, optional
            Weight of the KL term now (`kl_weight_at`); by default the config's.
        weights : pair of float, optional
            Of reconstruction and KL (`balance`, which takes the place of the config's two
            weights: give beta 1 with it); by default ``(img_loss_weight, 1)``.
        """
        if not self._elbo:
            assert terms.iwae is not None
            return terms.iwae
        beta = self.config.kl_loss_weight if beta is None else beta
        recon_weight, kl_weight = (self.config.img_loss_weight, 1.0) if weights is None else weights
        kl = terms.kl
        if self.config.free_bits:
            kl = terms.kl_dim.clamp(min=self.config.free_bits).sum(1)
        return _weighted(terms.recon, recon_weight) + _weighted(kl, beta * kl_weight)

    def log_weights(
        self,
        images: Tensor,
        noise: Tensor,
        labels: Tensor | None = None,
        posterior: Posterior | None = None,
    ) -> Tensor:
        """Log importance weights (n, K): log p(x|z) + log p(z) - log q(z|x), fp32."""
        mu, logvar, z, _, _, nats = self._draw(images, noise, labels, posterior=posterior)
        with _wide(images):
            return -nats - self._log_ratio(mu, logvar, z)

    def _draw(
        self,
        images: Tensor,
        noise: Tensor | None,
        labels: Tensor | None,
        value: bool = True,
        targets: Tensor | None = None,
        posterior: Posterior | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        """mu, logvar, samples z (n, K, z), KL by latent, first logits, reconstruction (n, K)."""
        mu, logvar = posterior or self.model.encode(images, labels)
        with _wide(images):
            if noise is None:
                z, kl_dim = mu[:, None], kl_standard(mu, logvar, value)
            else:
                z, kl_dim = sample_and_kl(mu, logvar, noise.float(), value)
        count, samples = z.shape[:2]
        targets = images if targets is None else targets
        if samples > 1:
            targets = targets.repeat_interleave(samples, dim=0)
            labels = None if labels is None else labels.repeat_interleave(samples, dim=0)
        logits = self.model.decode(z.flatten(0, 1), labels)
        with _wide(images):
            nats = self.reconstruction(logits, targets, value)
        first = logits if samples == 1 else logits[::samples]
        return mu, logvar, z, kl_dim, first, nats.view(count, samples)

    def _log_ratio(self, mu: Tensor, logvar: Tensor, z: Tensor) -> Tensor:
        """log q(z|x) - log p(z), (n, K)."""
        log_q = log_normal(z, mu[:, None], logvar[:, None])
        return log_q - self.prior.log_prob(z, self.model)

    def mean_image(self, logits: Tensor) -> Tensor:
        """Mean of the likelihood, fp32: of pixels in [0, 1]."""
        return torch.sigmoid(logits.float()) if self.config.of_pixels else logits.float()


def _wide(like: Tensor) -> AbstractContextManager[Any]:
    """No autocast in here; nothing is entered where there is none."""
    kind = like.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def _weighted(term: Tensor, weight: float | Tensor) -> Tensor:
    return term if isinstance(weight, float) and weight == 1.0 else weight * term
