"""Every model: shapes, devices, gradients, precision, and no statistics over the batch."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from data_pipeline.errors import UserError
from vae_dist import metrics
from vae_dist.losses import LossConfig
from vae_dist.models import MODELS, ModelConfig, build_model
from vae_dist.objective import Objective

FIXED = ("fcn", "fcns", "fcns_1n")
SHAPES = ((1, 8, 8), (3, 32, 32), (1, 28, 20), (3, 33, 17))
LOSSES = {
    "bce": LossConfig(),
    "mse": LossConfig(image_loss_type="mse"),
    "mse_fixed": LossConfig(image_loss_type="mse", mse_variance="fixed"),
    "ssim": LossConfig(image_loss_type="ssim"),
    "iwae": LossConfig(objective="iwae", importance_samples=3),
    "mixture": LossConfig(prior="mixture", prior_components=3),
    "vamp": LossConfig(prior="vamp", prior_components=3),
    "flow": LossConfig(prior="flow", prior_couplings=2, prior_width=8),
    "iwae_vamp": LossConfig(objective="iwae", prior="vamp", prior_components=3),
}


def config(name: str, **fields: object) -> ModelConfig:
    small = {"model_type": name, "latent_size": 3, "model_multiplier": 0.5, "conv_width": 8}
    return ModelConfig(**{**small, **fields})


def make(name: str, loss: LossConfig | None = None, **fields: object) -> Objective:
    torch.manual_seed(0)
    model = build_model(config(name, **fields), (1, 28, 28), 10)
    return Objective(model, loss or LossConfig())


def batch(count: int = 4, samples: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(count, 1, 28, 28, generator=generator)
    noise = torch.randn(count, samples, 3, generator=generator)
    return images, noise, torch.arange(count) % 10


@pytest.mark.parametrize("loss", LOSSES)
def test_every_parameter_gets_a_gradient_also_without_images(loss: str) -> None:
    for name in MODELS if loss == "bce" else ("fc_conv",):
        for conditional in (False, True):
            objective = make(name, LOSSES[loss], conditional=conditional)
            for count in (0, 4):
                objective.zero_grad()
                images, noise, labels = batch(count)
                terms = objective(images, noise, labels)
                assert terms.logits.shape == images.shape
                assert terms.mu.shape == terms.kl_dim.shape == (count, 3)
                objective.combine(terms).sum().backward()
                trained = {n: p for n, p in objective.named_parameters() if p.requires_grad}
                assert not [n for n, p in trained.items() if p.grad is None]
                if count:
                    still = [n for n, p in trained.items() if not p.grad.abs().max() > 0]
                    assert not still, f"{name} {loss}: no gradient reaches {still}"


@pytest.mark.parametrize("name", MODELS)
def test_an_image_does_not_depend_on_its_batch(name: str) -> None:
    for normalise in ("none", "image"):
        objective = make(name, normalise=normalise).train()
        images, noise, _ = batch()
        whole = objective(images, noise)
        alone = objective(images[1:2], noise[1:2])
        for term in ("recon", "kl", "logits"):
            torch.testing.assert_close(
                getattr(whole, term)[1:2], getattr(alone, term), rtol=1e-4, atol=1e-3
            )
    banned = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    assert not any(isinstance(module, banned) for module in objective.modules())


@pytest.mark.parametrize("name", MODELS)
def test_channels_last_changes_nothing(name: str) -> None:
    objective = make(name)
    images, noise, _ = batch()
    expected = objective(images, noise)
    objective = objective.to(memory_format=torch.channels_last)
    terms = objective(images.to(memory_format=torch.channels_last), noise)
    for term in ("recon", "kl", "logits"):
        torch.testing.assert_close(
            getattr(terms, term), getattr(expected, term), rtol=1e-4, atol=1e-3
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_all_stays_on_one_device(name: str) -> None:
    """On fake CUDA tensors an operation that meets a CPU tensor raises."""
    losses = LOSSES.values() if name == "fc_conv" else (LOSSES["bce"],)
    with FakeTensorMode(), torch.device("cuda"):
        for loss in losses:
            for fields in ({}, {"conditional": True, "normalise": "set"}):
                model = build_model(config(name, **fields), (1, 28, 28), 10, [0.3], [0.4])
                objective = Objective(model, loss)
                images, labels = torch.rand(4, 1, 28, 28), torch.zeros(4, dtype=torch.int64)
                for noise in (None, torch.randn(4, 3, 3)):
                    terms = objective(images, noise, labels)
                    assert all(t.device.type == "cuda" for t in filter(torch.is_tensor, terms))
                    assert objective.combine(terms, beta=0.5).device.type == "cuda"
                picture = objective.mean_image(terms.logits)
                for metric in (metrics.ssim, metrics.ssim11, metrics.psnr, metrics.mse):
                    assert metric(picture, images).device.type == "cuda"


@pytest.mark.parametrize("name", MODELS)
def test_bf16_autocast_is_close_and_finite(name: str) -> None:
    objective = make(name)
    images, noise, _ = batch()
    expected = objective(images, noise)
    with torch.autocast("cpu", torch.bfloat16):
        terms = objective(images, noise)
    assert terms.recon.dtype == terms.kl.dtype == torch.float32
    torch.testing.assert_close(terms.recon, expected.recon, rtol=0.05, atol=1)
    objective.combine(terms).sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters())


@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_weights_stay_finite(loss: str) -> None:
    objective = make("fc", LOSSES[loss])
    with torch.no_grad():
        objective.model.fc22.bias.fill_(1e4)
        objective.model.fc4.bias.copy_(torch.linspace(-1e4, 1e4, 784))
    images, noise, _ = batch()
    terms = objective(images, noise)
    objective.combine(terms).sum().backward()
    assert all(torch.isfinite(term).all() for term in filter(torch.is_tensor, terms))
    assert all(torch.isfinite(p.grad).all() for p in objective.parameters() if p.requires_grad)
    assert terms.logvar.abs().max() <= 15


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", sorted(set(MODELS) - set(FIXED)))
def test_any_image_shape(name: str, shape: tuple[int, int, int]) -> None:
    model = build_model(config(name, conditional=True), shape, 10)
    images = torch.rand(2, *shape)
    mu, logvar = model.encode(images, torch.tensor([1, -1]))
    assert mu.shape == logvar.shape == (2, 3)
    assert model.decode(mu).shape == images.shape


def test_conv_takes_large_images_and_refuses_tiny_ones() -> None:
    model = build_model(config("conv", conv_depth=2), (3, 128, 128), 10)
    assert model.decode(model.encode(torch.rand(1, 3, 128, 128))[0]).shape == (1, 3, 128, 128)
    large = build_model(config("conv"), (3, 300, 200), 10)
    assert large.decode(torch.zeros(1, 3)).shape == (1, 3, 300, 200)
    with pytest.raises(ValueError, match="8 pixels or more"):
        build_model(config("conv"), (3, 7, 200), 10)


@pytest.mark.parametrize("name", FIXED)
def test_models_made_for_one_shape_say_so(name: str) -> None:
    with pytest.raises(ValueError, match=f"--model-type {name}: made for images 1x28x28"):
        build_model(config(name), (3, 32, 32), 10)


def test_the_seeds_best_model_has_its_size() -> None:
    model = build_model(ModelConfig(model_type="fc_conv"), (1, 28, 28), 10)
    assert sum(p.numel() for p in model.parameters()) == 119_591


@pytest.mark.parametrize("split", [1, 6])
def test_split_filter_separates_that_many_layers(split: int) -> None:
    model = build_model(config("fcn", split_filter=split), (1, 28, 28), 10)
    assert sum(isinstance(layer, nn.Conv2d) for layer in model.mu_head) == split
    mu, logvar = model.encode(torch.rand(2, 1, 28, 28))
    assert not torch.equal(mu, logvar)


def test_labels_change_what_encoder_and_decoder_say() -> None:
    for name in MODELS:
        objective = make(name, conditional=True)
        images, _, _ = batch(1)
        one, two = torch.tensor([1]), torch.tensor([2])
        z = torch.zeros(1, 3)
        assert not torch.equal(objective.model.decode(z, one), objective.model.decode(z, two))
        mu = objective.model.encode(images, one)[0]
        assert not torch.equal(mu, objective.model.encode(images, two)[0])
        unlabelled = objective.model.encode(images, torch.tensor([-1]))[0]
        torch.testing.assert_close(objective.model.encode(images)[0], unlabelled)


def test_image_normalisation_ignores_brightness_and_contrast() -> None:
    model = build_model(config("fc", normalise="image"), (1, 28, 28), 10)
    images, _, _ = batch()
    mu, other = model.encode(images)[0], model.encode(images * 0.5 + 0.2)[0]
    torch.testing.assert_close(mu, other, rtol=1e-2, atol=1e-3)


def test_set_normalisation_travels_with_the_weights() -> None:
    first = build_model(config("fc", normalise="set"), (1, 28, 28), 10, [0.3], [0.4])
    second = build_model(config("fc", normalise="set"), (1, 28, 28), 10)
    second.load_state_dict(first.state_dict())
    images, _, _ = batch()
    torch.testing.assert_close(second.encode(images)[0], first.encode(images)[0])


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"model_type": "unet"}, "--model-type unet"),
        ({"latent_size": 0}, "--latent-size"),
        ({"split_filter": 7}, "--split-filter"),
        ({"model_multiplier": 0.0}, "--model-multiplier"),
    ],
)
def test_wrong_settings_name_their_flag(fields: dict, flag: str) -> None:
    with pytest.raises(ValueError, match=flag):
        ModelConfig(**fields)


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_checkpointed_activations_give_the_same_gradients_bit_for_bit(precision: str) -> None:
    images, noise, labels = batch()
    gradients = []
    for again in (False, True):
        module = make("conv", checkpoint_activations=again)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16"):
            loss = module.combine(module(images, noise, labels)).sum()
        loss.backward()
        gradients.append([parameter.grad for parameter in module.parameters()])
    for plain, computed_again in zip(*gradients, strict=True):
        assert torch.equal(plain, computed_again)


def test_models_that_do_not_checkpoint_say_so() -> None:
    with pytest.raises(UserError, match="--checkpoint-activations: fc does not"):
        ModelConfig(model_type="fc", checkpoint_activations=True)


@pytest.mark.parametrize(
    ("shape", "fields", "family"),
    [
        ((1, 28, 28), {}, "fc_conv"),
        ((3, 32, 32), {}, "fc_conv"),
        ((3, 33, 32), {}, "conv"),
        ((1, 4, 4000), {}, "fc_conv"),  # conv takes no side below 8
        ((1, 28, 28), {"checkpoint_activations": True}, "conv"),
    ],
)
def test_auto_takes_a_family_by_the_size_of_the_images(shape, fields, family):
    asked = config("auto", **fields)
    model = build_model(asked, shape, 10)
    assert asked.fitted(shape).model_type == family
    assert type(model).__module__ == f"vae_dist.models.{family}"
    assert ModelConfig().model_type == "auto"


def test_a_misspelt_family_gets_one_suggestion():
    with pytest.raises(UserError, match=r"^--model-type fc_con: did you mean fc_conv\?$"):
        ModelConfig(model_type="fc_con")
