"""A model and its losses are one graph for torch.compile, with the same losses and gradients."""

import pytest
import torch

from vae_dist.losses import LossConfig
from vae_dist.models import ModelConfig, build_model
from vae_dist.objective import Objective

CASES = [
    ("fc", LossConfig(image_loss_type="ssim")),
    ("fc_conv", LossConfig(objective="iwae", prior="vamp", prior_components=2)),
    ("fcns_1n", LossConfig(image_loss_type="mse")),
    ("conv", LossConfig(prior="mixture", prior_components=2)),
    ("fc", LossConfig(prior="flow", prior_couplings=2, prior_width=8)),
]
"""Between them every kind of layer, likelihood and prior; fcn and fcns are built like fcns_1n."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), CASES)
def test_one_graph_with_the_same_gradients(name: str, loss: LossConfig) -> None:
    """Captured with autograd and run by torch's kernels: no C++ compiler is needed."""
    torch.manual_seed(0)
    torch.compiler.reset()
    config = ModelConfig(
        model_type=name, latent_size=3, conditional=True, model_multiplier=0.5, conv_width=8
    )
    objective = Objective(build_model(config, (1, 28, 28), 10), loss)
    images, noise, labels = torch.rand(2, 1, 28, 28), torch.randn(2, 2, 3), torch.tensor([3, -1])
    compiled = torch.compile(objective, fullgraph=True, backend="aot_eager")
    gradients = []
    for module in (objective, compiled):
        objective.zero_grad()
        terms = module(images, noise, labels)
        objective.combine(terms, beta=0.5).sum().backward()
        gradients.append([p.grad.clone() for p in objective.parameters()])
    for eager, captured in zip(*gradients, strict=True):
        torch.testing.assert_close(captured, eager, rtol=1e-3, atol=1e-3)
