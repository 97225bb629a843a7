"""Three convolutions, then heads and decoder entry as one-dimensional convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from vae_dist.models.base import VAEModel, check_shape, init_for_relu, with_label_planes
from vae_dist.models.config import ModelConfig


class WholeVectorConv(nn.Conv1d):
    """A 1-D convolution whose kernel covers its input: vectors (n, out) from (n, length).

    It is a matrix product and computed as one.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.flatten(1), self.bias)


class WholeVectorConvTranspose(nn.ConvTranspose1d):
    """A transposed 1-D convolution of one position: (n, length) from vectors (n, in)."""

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        vector = input @ self.weight.flatten(1)
        return vector if self.bias is None else vector + self.bias


class OneByN(VAEModel):
    """`fcns_1n`: 28x28x1 images through three 3x3 convolutions of stride 2 to 4x4.

    With m = ``model_multiplier`` the widths are 4m 8m 16m. Heads and decoder entry are
    convolutions along the flattened features. In the 2018 program a ReLU stood before the sigmoid
    and kept every pixel's mean above a half; it is not used here, and weights start at the
    scale that suits ReLU.
    """

    def build(self, config: ModelConfig) -> None:
        check_shape("fcns_1n", self.image_shape, (1, 28, 28))
        first, second, third = (int(config.model_multiplier * width) for width in (4, 8, 16))
        self.encoder = nn.Sequential(
            nn.Conv2d(1 + self.num_classes, first, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(first, second, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(second, third, 3, 2, 1),
            nn.ReLU(),
        )
        self.top = (third, 4, 4)
        length = third * 4 * 4
        self.mu_head = WholeVectorConv(1, self.latent_size, length)
        self.logvar_head = WholeVectorConv(1, self.latent_size, length)
        self.entry = WholeVectorConvTranspose(self.code_size, 1, length)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(third, second, 3, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(second, first, 4, 2, 1),
            nn.ReLU(),
            nn.ConvTranspose2d(first, 1, 4, 2, 1),
        )
        init_for_relu(self)

    def infer(self, images: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        features = self.encoder(with_label_planes(images, label)).flatten(1)
        return self.mu_head(features), self.logvar_head(features)

    def generate(self, code: Tensor) -> Tensor:
        return self.decoder(F.relu(self.entry(code)).unflatten(1, self.top))
