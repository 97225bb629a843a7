"""Importance weighting, learned priors and the likelihood that both approach."""

import math

import pytest
import torch
from torch.distributions import (
    Categorical,
    Independent,
    MixtureSameFamily,
    Normal,
    kl_divergence,
)

from data_pipeline.errors import UserError
from vae_dist.losses import LossConfig
from vae_dist.metrics import iw_nll
from vae_dist.models import ModelConfig, build_model
from vae_dist.objective import Objective

SHAPE = (1, 6, 5)
PRIORS = ("standard", "mixture", "vamp")


def make(loss: LossConfig, latent_size: int = 2, seed: int = 0) -> Objective:
    torch.manual_seed(seed)
    model = build_model(ModelConfig(model_type="fc", latent_size=latent_size), SHAPE, 3)
    objective = Objective(model, loss)
    with torch.no_grad():  # far from its first state, so that the bounds differ visibly
        for parameter in objective.parameters():
            parameter.mul_(1.5)
    return objective


def batch(count: int, samples: int, latent_size: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, *SHAPE, generator=generator)
    return images, torch.randn(count, samples, latent_size, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize("prior", [*PRIORS, "flow"])
def test_iwae_lies_above_the_elbo_of_the_same_samples(prior: str) -> None:
    objective = make(LossConfig(objective="iwae", prior=prior, prior_components=4))
    images, noise = batch(6, 20)
    terms = objective(images, noise)
    elbo = objective.log_weights(images, noise).mean(1)
    assert (-terms.iwae > elbo).all()
    torch.testing.assert_close(objective.combine(terms), terms.iwae)


def test_iwae_of_one_sample_is_its_elbo() -> None:
    objective = make(LossConfig(objective="iwae"))
    images, noise = batch(6, 1)
    torch.testing.assert_close(
        objective(images, noise).iwae, -objective.log_weights(images, noise)[:, 0]
    )


@pytest.mark.parametrize("prior", PRIORS)
def test_nll_matches_an_integral_over_the_latent(prior: str) -> None:
    loss = LossConfig(prior=prior, prior_components=3, image_loss_type="mse", mse_sigma=0.3)
    objective = make(loss, latent_size=1)
    with torch.no_grad():  # a posterior wide enough to reach where the mass is
        objective.model.fc22.bias.fill_(1.0)
    images, noise = batch(3, 4000, 1)
    z = torch.linspace(-12, 12, 4001)[:, None]
    logits = objective.model.decode(z)
    likelihood = torch.stack(
        [-objective.reconstruction(logits, x.expand(4001, *SHAPE)) for x in images]
    )
    joint = likelihood + objective.prior.log_prob(z, objective.model)
    expected = -torch.logsumexp(joint, dim=1) - math.log(24 / 4000)
    got = iw_nll(objective, images, noise.split(1000, dim=1))
    torch.testing.assert_close(got.float(), expected.detach(), rtol=0, atol=0.05)


def test_sampled_kl_of_a_mixture_approaches_the_right_value() -> None:
    objective = make(LossConfig(prior="mixture", prior_components=4))
    images, noise = batch(3, 20_000)
    with torch.no_grad():
        mu, logvar = objective.model.encode(images)
        posterior = Independent(Normal(mu, torch.exp(logvar / 2)), 1)
        mean, log_variance, log_weight = objective.prior.components(objective.model)
        parts = Independent(Normal(mean, torch.exp(log_variance / 2)), 1)
        mixture = MixtureSameFamily(Categorical(logits=log_weight), parts)
        z = posterior.sample((20_000,))
        expected = (posterior.log_prob(z) - mixture.log_prob(z)).mean(0)
        terms = objective(images, noise)
        torch.testing.assert_close(terms.kl, expected, rtol=0, atol=0.05)
        assert (objective(images).kl >= expected - 0.02).all(), "without noise: a bound"


def test_a_mixture_of_one_has_the_analytic_kl() -> None:
    objective = make(LossConfig(prior="mixture", prior_components=1))
    with torch.no_grad():
        objective.prior.mean.zero_()
        objective.prior.logvar.zero_()
    images, _ = batch(4, 1)
    mu, logvar = objective.model.encode(images)
    expected = kl_divergence(Normal(mu, torch.exp(logvar / 2)), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(objective(images).kl, expected)


@pytest.mark.parametrize("prior", PRIORS)
def test_prior_samples_follow_its_density(prior: str) -> None:
    objective = make(LossConfig(prior=prior, prior_components=2), latent_size=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        z = objective.prior.sample(50_000, objective.model, generator)
        assert z.shape == (50_000, 1)
        edges = torch.linspace(-10, 10, 401)
        density = objective.prior.log_prob(edges[:, None], objective.model).exp()
    share = torch.histc(z, bins=400, min=-10, max=10) / len(z)
    middle = (density[1:] + density[:-1]) / 2 * 0.05
    assert (share.cumsum(0) - middle.cumsum(0)).abs().max() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["mixture", "vamp", "flow"])
def test_a_learned_prior_learns(prior: str) -> None:
    objective = make(LossConfig(prior=prior, prior_components=3, prior_couplings=2, prior_width=8))
    images, noise = batch(8, 1)
    optimizer = torch.optim.Adam(objective.prior.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        loss = objective.combine(objective(images, noise)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] - 0.05


def bent(latent_size: int) -> Objective:
    """With a flow far from the identity that it begins as."""
    objective = make(LossConfig(prior="flow", prior_couplings=3, prior_width=8), latent_size)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in objective.prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return objective


@pytest.mark.parametrize("latent_size", [2, 3, 5])
def test_a_flow_is_undone_by_its_inverse_and_its_determinant_is_the_jacobians(latent_size) -> None:
    flow = bent(latent_size).prior
    z = torch.randn(7, latent_size)
    for coupling in flow.couplings:
        u, log_det = coupling(z)
        torch.testing.assert_close(coupling.inverse(u), z)
        for point, change in zip(z, log_det, strict=True):
            jacobian = torch.func.jacrev(lambda x, f=coupling: f(x)[0])(point)
            torch.testing.assert_close(jacobian.det().abs().log(), change)
        z = u.detach()


def test_a_flow_begins_near_the_standard_normal() -> None:
    objective = Objective(make(LossConfig()).model, LossConfig(prior="flow"))
    z = torch.randn(9, 2)
    expected = Normal(0.0, 1.0).log_prob(z).sum(1)
    got = objective.prior.log_prob(z, objective.model)
    torch.testing.assert_close(got, expected, rtol=0, atol=0.1)


def test_samples_of_a_flow_follow_its_density() -> None:
    """Its density, over a grid, sums to 1, and each quarter of the plane has its share of draws."""
    objective = bent(2)
    axis = torch.linspace(-15, 15, 1201)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        density = objective.prior.log_prob(grid, objective.model).exp() * (30 / 1200) ** 2
        z = objective.prior.sample(50_000, objective.model, torch.Generator().manual_seed(0))
    assert float(density.sum()) == pytest.approx(1, abs=2e-3)
    for signs in ((1, 1), (1, -1), (-1, 1), (-1, -1)):
        inside, drawn = ((p * torch.tensor(signs) > 0).all(1) for p in (grid, z))
        assert float(density[inside].sum()) == pytest.approx(float(drawn.float().mean()), abs=0.01)


def test_the_kl_from_a_flow_is_near_that_of_many_samples() -> None:
    objective = bent(2)
    images, noise = batch(3, 20_000)
    with torch.no_grad():
        exact, estimated = objective(images, noise).kl, objective(images).kl
    assert (estimated - exact).abs().max() < 0.3 * exact.min()


def test_a_flow_needs_two_latents() -> None:
    with pytest.raises(UserError, match="--prior flow: needs two latents"):
        make(LossConfig(prior="flow"), latent_size=1)
