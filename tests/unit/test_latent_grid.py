"""``--latent-grid``: the latents of `conv` as a grid; flat outside the model."""

import math

import pytest
import torch

from data_pipeline.errors import UserError
from tests.unit.test_step import gradients
from tests.unit.test_step import make as make_state
from vae_dist.losses import LossConfig
from vae_dist.memory.estimate import activation_bytes, estimate
from vae_dist.models import ModelConfig, build_model
from vae_dist.objective import Objective


def config(**fields) -> ModelConfig:
    return ModelConfig(**{"model_type": "conv", "conv_width": 4, "latent_grid": 2, **fields})


def parameters(shape: tuple[int, int, int], **fields) -> int:
    return sum(p.numel() for p in build_model(config(**fields), shape, 10).parameters())


@pytest.mark.parametrize(
    ("side", "factor"), [(32, 8), (64, 8), (64, 16), (128, 4), (256, 8), (256, 1), (64, 64)]
)
def test_the_grid_has_a_cell_for_so_many_pixels_a_side(side: int, factor: int) -> None:
    with torch.device("meta"):
        model = build_model(config(latent_factor=factor), (3, side, side), 10)
        mu, logvar = model.encode(torch.empty(2, 3, side, side))
        assert model.latent_shape == (2, side // factor, side // factor)
        assert mu.shape == logvar.shape == (2, 2 * (side // factor) ** 2) == (2, model.latent_size)
        assert model.decode(mu).shape == (2, 3, side, side)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 17), (2, 65, 100)])
@pytest.mark.parametrize("conditional", [False, True])
def test_odd_sides_and_labels(shape: tuple[int, int, int], conditional: bool) -> None:
    """Shapes, an empty batch, and a gradient for every parameter."""
    torch.manual_seed(0)
    objective = Objective(build_model(config(conditional=conditional), shape, 10), LossConfig())
    model = objective.model
    assert model.latent_shape == (2, math.ceil(shape[1] / 8), math.ceil(shape[2] / 8))
    for count in (0, 3):
        images, labels = torch.rand(count, *shape), torch.arange(count)
        terms = objective(images, torch.randn(count, 1, model.latent_size), labels)
        assert terms.logits.shape == images.shape
        assert terms.kl_dim.shape == (count, model.latent_size)
        objective.combine(terms).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in objective.parameters())
    z = torch.zeros(1, model.latent_size)
    one, two = (model.decode(z, torch.tensor([label])) for label in (1, 2))
    assert torch.equal(one, two) != conditional


def test_a_cell_decodes_to_its_own_place() -> None:
    """Far from it, and from the edges, the normalisation of groups alone changes anything."""
    torch.manual_seed(0)
    model = build_model(config(), (1, 128, 128), 10)
    z = torch.zeros(2, *model.latent_shape)
    z[1, :, 0, 15] = 5  # the upper right corner
    change = (model.decode(z.flatten(1)).diff(dim=0) ** 2)[0, 0]
    assert change[:16, -16:].mean() > 10 * change[16:-16, 16:-16].mean()


def test_the_posterior_starts_narrower_than_the_prior() -> None:
    """Or the decoder learns to ignore the grid: no latent of it was active after 15 epochs."""
    torch.manual_seed(0)
    _, logvar = build_model(config(), (1, 32, 32), 10).encode(torch.rand(4, 1, 32, 32))
    assert float(logvar.mean()) == pytest.approx(-2, abs=0.1)


def test_parameters_do_not_grow_with_the_image() -> None:
    with torch.device("meta"):
        assert parameters((3, 32, 32)) == parameters((3, 256, 256))
        flat = {"latent_grid": 0, "latent_size": 10}
        assert parameters((3, 32, 32), **flat) < parameters((3, 33, 256), **flat)


def test_without_the_flag_conv_is_what_it_was() -> None:
    """Names, shapes and start values, as they were before there was the flag."""
    torch.manual_seed(0)
    weights = build_model(config(latent_grid=0), (1, 28, 28), 10).state_dict()
    assert len(weights) == 90
    assert weights["mu_head.weight"].shape == (10, 256)
    total = sum(float(value.double().abs().sum()) for value in weights.values())
    assert total == pytest.approx(2123.522335143765, rel=1e-9)


def test_the_estimate_counts_the_grid() -> None:
    """Noise and activations of 2,048 latents; a flat model of ten has less of both."""
    shape, needs = (3, 64, 64), {}
    for grid in (0, 32):
        objective = Objective(build_model(config(latent_grid=grid), shape, 10), LossConfig())
        needs[grid] = estimate(objective, image_shape=shape, local_batch=4, global_batch=4)
        assert needs[grid].activations == activation_bytes(objective, 4, shape)
    assert needs[32].inputs - needs[0].inputs == 4 * (2048 - 10) * 8
    assert needs[32].activations is not None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"model_type": "fc"}, "--latent-grid: fc has no grid of latents"),
        ({"latent_size": 64}, "--latent-size 64 with --latent-grid 2"),
        ({"latent_factor": 6}, "--latent-factor 6: must be a power of two"),
        ({"latent_factor": 4, "latent_grid": 0}, "--latent-factor 4: has no effect without"),
        ({"latent_grid": -1}, "--latent-grid -1"),
    ],
)
def test_what_cannot_work_is_refused(fields: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        config(**fields)


def test_a_cell_is_not_larger_than_the_image() -> None:
    with pytest.raises(UserError, match=r"--latent-factor 64: .*28x60; Fix: --latent-factor 16"):
        build_model(config(latent_factor=64), (1, 28, 60), 10)


def test_models_of_others_ignore_no_flag() -> None:
    """They are known only when they are built."""
    own = "vae_dist.models.fc:FullyConnected"
    for fields in ({"latent_grid": 2}, {"checkpoint_activations": True}):
        with pytest.raises(UserError, match=f"{own} .*Fix: --model-type conv"):
            build_model(ModelConfig(model_type=own, **fields), (1, 28, 28), 10)


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig(objective="iwae", importance_samples=2),
        LossConfig(prior="mixture", prior_components=2),
        LossConfig(prior="vamp", prior_components=2),
        LossConfig(free_bits=0.01),
    ],
)
def test_a_step_in_parts_is_a_step(loss: LossConfig) -> None:
    """Noise of 2 x 4 x 4 latents by position: two micro-batches give the gradients of one batch."""
    fields = {"latent_grid": 2, "latent_size": 10}
    one, two = (make_state(None, loss, "conv", fields, accumulate=n) for n in (1, 2))
    assert one.noise.columns == 32 * loss.importance_samples
    for ours, theirs in zip(gradients(one), gradients(two), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
