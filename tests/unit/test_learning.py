"""Every model learns: a few steps on a few images."""

import pytest
import torch

from vae_dist.losses import LossConfig
from vae_dist.metrics import ssim
from vae_dist.models import MODELS, ModelConfig, build_model
from vae_dist.objective import Objective

CASES = [(name, "ssim") for name in MODELS] + [("fc_conv", "bce"), ("fcn", "mse")]
"""benchmarks/models_table.py trains every model with every loss on real images."""


def boxes(count: int = 8) -> torch.Tensor:
    """Filled rectangles on grey, a size and a place for each image."""
    images = torch.full((count, 1, 28, 28), 0.3)
    for i in range(count):
        top, left = 2 + i % 4 * 3, 2 + i // 4 * 6
        images[i, :, top : top + 10, left : left + 6 + i % 3 * 3] = 0.6 + 0.1 * (i % 4)
    return images


@pytest.mark.slow
@pytest.mark.parametrize(("name", "loss"), CASES)
def test_reconstructions_get_better(name: str, loss: str) -> None:
    torch.manual_seed(0)
    config = ModelConfig(model_type=name, model_multiplier=0.5, conv_width=8)
    model = build_model(config, (1, 28, 28), 10)
    objective = Objective(model, LossConfig(image_loss_type=loss))
    optimizer = torch.optim.Adam(objective.parameters(), lr=5e-3)
    images, generator = boxes(), torch.Generator().manual_seed(0)
    scores, losses = [], []
    for step in range(41):
        terms = objective(images, torch.randn(8, 1, 10, generator=generator))
        value = objective.combine(terms).mean()
        if step % 40 == 0:
            losses.append(float(value.detach()))
            shown = objective.mean_image(objective(images).logits)
            scores.append(float(ssim(shown, images).mean().detach()))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    assert scores[-1] > scores[0] + 0.1
