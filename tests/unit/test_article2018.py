"""Weights of the 2018 article's checkpoints give the 2018 article's outputs."""

import pytest
import torch
from torch.nn import functional as F

from vae_dist.losses import LossConfig
from vae_dist.models import ModelConfig, article2018_model, build_model, import_article2018_state
from vae_dist.objective import Objective


def conv_state(latents: int = 10) -> dict[str, torch.Tensor]:
    shapes = {
        "fc1": ((32, 1, 28, 28), 32),
        "fc21": ((latents, 32, 1, 1), latents),
        "fc22": ((latents, 32, 1, 1), latents),
        "fc3": ((latents, 118, 1, 1), 118),
        "fc4": ((118, 1, 28, 28), 1),
    }
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, (weight, bias) in shapes.items():
        state[f"{name}.weight"] = 0.1 * torch.randn(weight, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(bias, generator=generator)
    return state


def fc_state() -> dict[str, torch.Tensor]:
    sizes = {"fc1": (400, 784), "fc21": (10, 400), "fc22": (10, 400)}
    sizes |= {"fc3": (400, 10), "fc4": (784, 400)}
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, size in sizes.items():
        state[f"{name}.weight"] = 0.05 * torch.randn(size, generator=generator)
        state[f"{name}.bias"] = 0.05 * torch.randn(size[0], generator=generator)
    return state


def test_fc_conv_computes_the_convolutions_it_is_named_after() -> None:
    state, images = conv_state(), torch.rand(4, 1, 28, 28)
    hidden = F.relu(F.conv2d(images, state["fc1.weight"], state["fc1.bias"]))
    mu = F.conv2d(hidden, state["fc21.weight"], state["fc21.bias"])
    logvar = F.conv2d(hidden, state["fc22.weight"], state["fc22.bias"])
    back = F.relu(F.conv_transpose2d(mu, state["fc3.weight"], state["fc3.bias"]))
    logits = F.conv_transpose2d(back, state["fc4.weight"], state["fc4.bias"])
    model = build_model(ModelConfig(model_type="fc_conv"), (1, 28, 28), 10)
    model.load_state_dict(import_article2018_state(state, "fc_conv"))
    terms = Objective(model, LossConfig())(images)
    torch.testing.assert_close(terms.mu, mu.flatten(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms.logvar, logvar.flatten(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(terms.logits, logits, rtol=1e-4, atol=1e-3)
    recon = F.binary_cross_entropy(torch.sigmoid(logits), images, reduction="sum")
    torch.testing.assert_close(terms.recon.sum(), recon, rtol=1e-4, atol=1e-2)
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp())
    torch.testing.assert_close(terms.kl.sum(), kl, rtol=1e-4, atol=1e-3)


def test_fc_loads_with_and_without_the_prefix_of_dataparallel() -> None:
    state, images = fc_state(), torch.rand(4, 1, 28, 28)
    hidden = F.relu(images.flatten(1) @ state["fc1.weight"].T + state["fc1.bias"])
    mu = hidden @ state["fc21.weight"].T + state["fc21.bias"]
    for prefix in ("", "module."):
        model = build_model(ModelConfig(model_type="fc"), (1, 28, 28), 10)
        given = {prefix + name: tensor for name, tensor in state.items()}
        assert article2018_model(given) == ("fc", 10)
        model.load_state_dict(import_article2018_state(given, "fc"))
        torch.testing.assert_close(model.encode(images)[0], mu, rtol=1e-4, atol=1e-4)


def test_adam_moments_fit_as_they_are() -> None:
    model = build_model(ModelConfig(model_type="fc_conv"), (1, 28, 28), 10)
    state = import_article2018_state(conv_state(), "fc_conv")
    assert [n for n, _ in model.named_parameters()] == list(state)
    assert all(p.shape == state[n].shape for n, p in model.named_parameters())


def test_what_does_not_fit_is_said() -> None:
    with pytest.raises(ValueError, match="--model-type fc_conv"):
        import_article2018_state(conv_state(), "fc")
    with pytest.raises(ValueError, match="only those of fc and fc_conv can be read"):
        import_article2018_state(conv_state(), "fcn")
    with pytest.raises(ValueError, match=r"names differ in fc4\.bias"):
        import_article2018_state(
            {k: v for k, v in conv_state().items() if k != "fc4.bias"}, "fc_conv"
        )
    with pytest.raises(ValueError, match="fc1"):
        article2018_model({"weight": torch.zeros(1)})
    assert article2018_model(conv_state(20)) == ("fc_conv", 20)
