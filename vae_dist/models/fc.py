"""One hidden layer each way."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from vae_dist.models.base import LabelBias, VAEModel, start_heads
from vae_dist.models.config import ModelConfig

HIDDEN = 400


class FullyConnected(VAEModel):
    """`fc`: pixels-400-(z, z) and z-400-pixels, ReLU between; any image shape."""

    def build(self, config: ModelConfig) -> None:
        pixels = math.prod(self.image_shape)
        self.fc1 = nn.Linear(pixels, HIDDEN)
        self.fc21 = nn.Linear(HIDDEN, self.latent_size)
        self.fc22 = nn.Linear(HIDDEN, self.latent_size)
        self.fc3 = nn.Linear(self.code_size, HIDDEN)
        self.fc4 = nn.Linear(HIDDEN, pixels)
        start_heads(self.fc21, self.fc22)
        self.label_bias = LabelBias(self.num_classes, HIDDEN)

    def infer(self, images: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.label_bias(self.fc1(images.flatten(1)), label))
        return self.fc21(hidden), self.fc22(hidden)

    def generate(self, code: Tensor) -> Tensor:
        return self.fc4(F.relu(self.fc3(code))).view(code.shape[0], *self.image_shape)
