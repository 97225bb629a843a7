"""Priors p(z): a standard normal, a learned mixture of normals, a VampPrior."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vae_dist.losses import LossConfig, kl_standard, log_normal
from vae_dist.models import VAEModel


class Prior(nn.Module, ABC):
    """A density over latents."""

    @abstractmethod
    def log_prob(self, z: Tensor, model: VAEModel) -> Tensor:
        """Log-density (...,) of latents (..., z)."""

    @abstractmethod
    def kl(self, mu: Tensor, logvar: Tensor, model: VAEModel) -> Tensor:
        """KL(q(z|x) || p(z)) of each image (n,), without samples: exact or an upper bound."""

    @abstractmethod
    def sample(self, count: int, model: VAEModel, generator: torch.Generator) -> Tensor:
        """Latents (count, z), drawn by ``generator``, on its device."""


class StandardNormal(Prior):
    """N(0, 1)."""

    def log_prob(self, z: Tensor, model: VAEModel) -> Tensor:
        return -0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)

    def kl(self, mu: Tensor, logvar: Tensor, model: VAEModel) -> Tensor:
        return kl_standard(mu, logvar).sum(-1)

    def sample(self, count: int, model: VAEModel, generator: torch.Generator) -> Tensor:
        size = (count, model.latent_size)
        return torch.randn(size, generator=generator, device=generator.device)


class _Components(Prior):
    """A mixture of diagonal normals, however its components are parametrised."""

    @abstractmethod
    def components(self, model: VAEModel) -> tuple[Tensor, Tensor, Tensor]:
        """Means (k, z), log-variances (k, z), log-weights (k,)."""

    def log_prob(self, z: Tensor, model: VAEModel) -> Tensor:
        mu, logvar, log_weight = self.components(model)
        return torch.logsumexp(log_weight + log_normal(z.unsqueeze(-2), mu, logvar), dim=-1)

    def kl(self, mu: Tensor, logvar: Tensor, model: VAEModel) -> Tensor:
        """The upper bound -log sum_k w_k exp(-KL(q || p_k)) of Hershey and Olsen (2007)."""
        prior_mu, prior_logvar, log_weight = self.components(model)
        mu, logvar = mu.unsqueeze(-2), logvar.unsqueeze(-2)
        ratio = logvar - prior_logvar
        distance = (mu - prior_mu).square() * torch.exp(-prior_logvar)
        each = 0.5 * (distance + ratio.exp() - 1 - ratio).sum(-1)
        return -torch.logsumexp(log_weight - each, dim=-1)

    def sample(self, count: int, model: VAEModel, generator: torch.Generator) -> Tensor:
        mu, logvar, log_weight = self.components(model)
        chosen = torch.multinomial(log_weight.exp(), count, replacement=True, generator=generator)
        size = (count, model.latent_size)
        noise = torch.randn(size, generator=generator, device=generator.device)
        return mu[chosen] + noise * torch.exp(0.5 * logvar[chosen])


class Mixture(_Components):
    """Normals with learned means, variances and weights."""

    def __init__(self, components: int, latent_size: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.randn(components, latent_size))
        self.logvar = nn.Parameter(torch.zeros(components, latent_size))
        self.logits = nn.Parameter(torch.zeros(components))

    def components(self, model: VAEModel) -> tuple[Tensor, Tensor, Tensor]:
        logvar = 10 * torch.tanh(self.logvar / 10)
        return self.mean, logvar, torch.log_softmax(self.logits, dim=0)


class Vamp(_Components):
    """The posteriors of learned pseudo-images (Tomczak and Welling, 2018), equally weighted."""

    def __init__(self, components: int, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.pseudo = nn.Parameter(torch.randn(components, *image_shape))

    def components(self, model: VAEModel) -> tuple[Tensor, Tensor, Tensor]:
        mu, logvar = model.encode(torch.sigmoid(self.pseudo))
        log_weight = mu.new_full((mu.shape[0],), -math.log(mu.shape[0]))
        return mu, logvar, log_weight


def build_prior(config: LossConfig, model: VAEModel) -> Prior:
    """The prior a config names, for a model's latents."""
    if config.prior == "mixture":
        return Mixture(config.prior_components, model.latent_size)
    if config.prior == "vamp":
        return Vamp(config.prior_components, model.image_shape)
    return StandardNormal()
