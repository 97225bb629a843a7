"""Five small convolutions, linear heads, and transposed convolutions back."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vae_dist.models.base import VAEModel, check_shape, init_for_relu, with_label_planes
from vae_dist.models.config import ModelConfig

WIDTHS = (4, 8, 16, 32, 64)
TOP = (64, 4, 4)


class SmallConvolutional(VAEModel):
    """`fcns`: 28x28x1 images through 3x3 convolutions of strides 1 1 2 1 2 to 64x4x4.

    Linear heads; a linear layer and five transposed convolutions back. In the 2018 program a ReLU
    stood before the sigmoid and kept every pixel's mean above a half; it is not used here, and
    weights start at the scale that suits ReLU.
    """

    def build(self, config: ModelConfig) -> None:
        check_shape("fcns", self.image_shape, (1, 28, 28))
        widths = (1 + self.num_classes, *WIDTHS)
        layers: list[nn.Module] = []
        for i, stride in enumerate((1, 1, 2, 1, 2)):
            layers += [nn.Conv2d(widths[i], widths[i + 1], 3, stride), nn.ReLU()]
        self.encoder = nn.Sequential(*layers)
        features = TOP[0] * TOP[1] * TOP[2]
        self.mu_head = nn.Linear(features, self.latent_size)
        self.logvar_head = nn.Linear(features, self.latent_size)
        self.entry = nn.Linear(self.code_size, features)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(64, 32, 4, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(32, 16, 4, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 4),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 4, 4),
            nn.ReLU(),
            nn.ConvTranspose2d(4, 1, 3, padding=1),
        )
        init_for_relu(self)

    def infer(self, images: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        features = self.encoder(with_label_planes(images, label)).flatten(1)
        return self.mu_head(features), self.logvar_head(features)

    def generate(self, code: Tensor) -> Tensor:
        return self.decoder(F.relu(self.entry(code)).unflatten(1, TOP))
