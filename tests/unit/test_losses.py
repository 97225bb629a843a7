"""Loss terms against independent computations, in nats summed over pixels and latents."""

import math

import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from vae_dist import losses
from vae_dist.losses import LossConfig, balance, kl_weight_at
from vae_dist.models import ModelConfig, build_model
from vae_dist.objective import Objective

SHAPE = (1, 6, 5)


def make(loss: LossConfig | None = None, **model: object) -> Objective:
    torch.manual_seed(0)
    config = ModelConfig(**{"model_type": "fc", "latent_size": 4, **model})
    return Objective(build_model(config, SHAPE, 3), loss or LossConfig())


def batch(count: int = 7, samples: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, *SHAPE, generator=generator)
    return images, torch.randn(count, samples, 4, generator=generator)


def test_kl_matches_torch_distributions() -> None:
    mu, logvar = torch.randn(9, 4), torch.randn(9, 4) * 3
    expected = kl_divergence(Normal(mu, torch.exp(logvar / 2)), Normal(0.0, 1.0))
    torch.testing.assert_close(losses.kl_standard(mu, logvar), expected, rtol=1e-4, atol=1e-5)


def test_likelihoods_match_torch_distributions() -> None:
    logits, images = torch.randn(5, *SHAPE), torch.rand(5, *SHAPE)
    bits = torch.bernoulli(images)
    expected = -Bernoulli(logits=logits).log_prob(bits).sum(dim=(1, 2, 3))
    torch.testing.assert_close(losses.bce_nats(logits, bits), expected)
    log_sigma = torch.tensor(-1.3)
    gaussian = Normal(torch.sigmoid(logits), log_sigma.exp())
    expected = -gaussian.log_prob(images).sum(dim=(1, 2, 3))
    torch.testing.assert_close(losses.gaussian_nats(logits, images, log_sigma), expected)


def test_terms_are_sums_over_pixels_and_latents() -> None:
    objective = make()
    images, noise = batch()
    terms = objective(images, noise)
    mu, logvar = objective.model.encode(images)
    logits = objective.model.decode(mu + noise[:, 0] * torch.exp(0.5 * logvar))
    recon = torch.stack(
        [
            sum(
                -x * torch.log(p) - (1 - x) * torch.log(1 - p)
                for x, p in zip(image.flatten(), torch.sigmoid(logit).flatten(), strict=True)
            )
            for image, logit in zip(images, logits, strict=True)
        ]
    )
    torch.testing.assert_close(terms.recon, recon)
    torch.testing.assert_close(terms.kl, terms.kl_dim.sum(1))
    torch.testing.assert_close(objective.combine(terms), recon + terms.kl)


def test_beta_changes_the_gradient() -> None:
    gradients = []
    for beta in (0.0, 1.0, 4.0):
        objective = make()
        objective.combine(objective(*batch()), beta=beta).sum().backward()
        gradients.append(objective.model.fc21.weight.grad.clone())
    assert not torch.allclose(gradients[0], gradients[1])
    expected = gradients[0] + 4 * (gradients[1] - gradients[0])
    torch.testing.assert_close(gradients[2], expected, rtol=1e-3, atol=1e-3)


def test_no_noise_means_the_mean() -> None:
    objective = make()
    images, noise = batch()
    at_mean, at_zero_noise = objective(images), objective(images, torch.zeros_like(noise))
    torch.testing.assert_close(at_mean.recon, at_zero_noise.recon)


def test_free_bits_charge_no_less_than_their_floor() -> None:
    objective = make(LossConfig(free_bits=0.5))
    terms = objective(*batch())
    charged = objective.combine(terms, weights=(0.0, 1.0), beta=1.0)
    torch.testing.assert_close(charged, terms.kl_dim.clamp(min=0.5).sum(1))
    assert (charged >= 0.5 * 4).all()


def test_schedules_of_the_kl_weight() -> None:
    constant = LossConfig(kl_loss_weight=2.0)
    assert [kl_weight_at(constant, step, 100) for step in (0, 99)] == [2.0, 2.0]
    warmup = LossConfig(kl_schedule="warmup", kl_warmup=0.5, kl_loss_weight=2.0)
    assert [kl_weight_at(warmup, step, 100) for step in (0, 25, 50, 99, 500)] == [0, 1, 2, 2, 2]
    cyclical = LossConfig(kl_schedule="cyclical", kl_warmup=0.5, kl_cycles=4)
    weights = [kl_weight_at(cyclical, step, 80) for step in range(80)]
    assert weights[:20] == weights[20:40] == weights[60:]
    assert weights[0] == 0
    assert weights[5] == 0.5
    assert weights[10:20] == [1.0] * 10


def test_balance_is_the_seeds_rule() -> None:
    assert balance(30.0, 10.0) == pytest.approx((0.25, 0.75))
    recon, kl = balance(torch.tensor(30.0), torch.tensor(10.0))
    assert float(recon) == pytest.approx(0.25)
    assert float(kl) == pytest.approx(0.75)
    assert balance(0.0, 0.0) == pytest.approx((0.5, 0.5))


def test_weights_and_image_weight() -> None:
    objective = make(LossConfig(img_loss_weight=3.0, kl_loss_weight=0.5))
    terms = objective(*batch())
    torch.testing.assert_close(objective.combine(terms), 3 * terms.recon + 0.5 * terms.kl)


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"image_loss_type": "l1"}, "--image-loss-type"),
        ({"ssim_window_size": 4}, "--ssim-window-size"),
        ({"kl_warmup": 0.0}, "--kl-warmup"),
        ({"mse_sigma": 0.0}, "--mse-sigma"),
        ({"kl_loss_weight": math.nan}, "--kl-loss-weight"),
        ({"objective": "iwae", "kl_loss_weight": 2.0}, "--objective iwae"),
        ({"free_bits": 1.0, "prior": "vamp"}, "--free-bits"),
    ],
)
def test_wrong_settings_name_their_flag(fields: dict, flag: str) -> None:
    with pytest.raises(ValueError, match=flag):
        LossConfig(**fields)
