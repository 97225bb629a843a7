"""Priors p(z): a standard normal, a learned mixture of normals, a VampPrior, a flow."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from data_pipeline.errors import UserError
from vae_dist.losses import LossConfig, kl_standard, log_normal
from vae_dist.models import VAEModel

LARGEST_LOG_SCALE = 1.0  # of one coupling: squeezed smoothly, so that training cannot blow up
KL_POINTS = 16


class Prior(nn.Module, ABC):
    """A density over latents."""

    @abstractmethod
    def log_prob(self, z: Tensor, model: VAEModel) -> Tensor:
        """Log-density (...,) of latents (..., z)."""

    @abstractmethod
    def kl(self, mu: Tensor, logvar: Tensor, model: VAEModel) -> Tensor:
        """KL(q(z|x) || p(z)) of each image (n,), the same on every call: exact, an upper bound, or
        of a flow an estimate."""

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


class Coupling(nn.Module):
    """Shifts and scales one half of the latents by what a small network reads from the other.

    Parameters
    ----------
    latent_size, width : int
        Latents, of which the first half is read; hidden units.
    """

    def __init__(self, latent_size: int, width: int) -> None:
        super().__init__()
        self.read = latent_size // 2
        last = nn.Linear(width, 2 * (latent_size - self.read))
        self.net = nn.Sequential(
            nn.Linear(self.read, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), last
        )
        nn.init.normal_(last.weight, std=1e-3)  # nearly the identity, and the prior nearly N(0, 1)
        nn.init.zeros_(last.bias)

    def _shift_and_scale(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        shift, raw = self.net(kept).chunk(2, dim=-1)
        return shift, LARGEST_LOG_SCALE * torch.tanh(raw / LARGEST_LOG_SCALE)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """From the latents towards the normal: (..., z) in reversed order, log|det| (...,)."""
        kept, moved = z.split([self.read, z.shape[-1] - self.read], dim=-1)
        shift, log_scale = self._shift_and_scale(kept)
        moved = moved * log_scale.exp() + shift
        return torch.cat([kept, moved], dim=-1).flip(-1), log_scale.sum(-1)

    def inverse(self, u: Tensor) -> Tensor:
        """From the normal towards the latents."""
        kept, moved = u.flip(-1).split([self.read, u.shape[-1] - self.read], dim=-1)
        shift, log_scale = self._shift_and_scale(kept)
        return torch.cat([kept, (moved - shift) * (-log_scale).exp()], dim=-1)


class Flow(Prior):
    """A standard normal seen through affine couplings (Dinh et al., Real NVP, 2017).

    A prior that bends does what a posterior that is bent alike for every image would do, and
    leaves mu and logvar what they are (Chen et al., Variational lossy autoencoder, 2017, sec. 3.2).
    """

    def __init__(self, couplings: int, width: int, latent_size: int) -> None:
        super().__init__()
        self.couplings = nn.ModuleList(Coupling(latent_size, width) for _ in range(couplings))
        generator = torch.Generator().manual_seed(0)
        half = torch.randn(KL_POINTS // 2, latent_size, generator=generator)
        self.register_buffer("points", torch.cat([half, -half]), persistent=False)

    points: Tensor

    def log_prob(self, z: Tensor, model: VAEModel) -> Tensor:
        log_det = z.new_zeros(z.shape[:-1])
        for coupling in self.couplings:
            z, change = coupling(z)
            log_det = log_det + change
        return log_det - 0.5 * (z.square() + math.log(2 * math.pi)).sum(-1)

    def kl(self, mu: Tensor, logvar: Tensor, model: VAEModel) -> Tensor:
        """Estimated by the same few points of every posterior, each with its mirror image."""
        z = mu[:, None] + self.points * torch.exp(0.5 * logvar)[:, None]
        ratio = log_normal(z, mu[:, None], logvar[:, None]) - self.log_prob(z, model)
        return ratio.mean(1)

    def sample(self, count: int, model: VAEModel, generator: torch.Generator) -> Tensor:
        size = (count, model.latent_size)
        z = torch.randn(size, generator=generator, device=generator.device)
        for coupling in reversed(list(self.couplings)):
            assert isinstance(coupling, Coupling)
            z = coupling.inverse(z)
        return z


def build_prior(config: LossConfig, model: VAEModel) -> Prior:
    """The prior a config names, for a model's latents."""
    if config.prior == "mixture":
        return Mixture(config.prior_components, model.latent_size)
    if config.prior == "vamp":
        return Vamp(config.prior_components, model.image_shape)
    if config.prior == "flow":
        if model.latent_size < 2:
            raise UserError("--prior flow: needs two latents or more; Fix: --prior mixture")
        return Flow(config.prior_couplings, config.prior_width, model.latent_size)
    return StandardNormal()
