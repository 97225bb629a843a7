"""Fully convolutional: six convolutions down to one pixel and six transposed ones back."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vae_dist.models.base import VAEModel, check_shape, init_for_relu, with_label_planes
from vae_dist.models.config import ModelConfig

ENCODER_STRIDES = (1, 1, 2, 1, 2, 2)
DECODER_KERNELS = (4, 4, 4, 4, 4, 3)
DECODER_STRIDES = (1, 2, 2, 1, 1, 1)
DECODER_PADDINGS = (0, 0, 0, 0, 0, 1)


class FullyConvolutional(VAEModel):
    """`fcn`: 28x28x1 images through 3x3 convolutions of strides 1 1 2 1 2 2.

    With m = ``model_multiplier`` the widths are 4m 8m 16m 32m 64m, then the latents. The
    last ``split_filter`` layers are separate for mu and logvar. The decoder mirrors the
    encoder with transposed convolutions.

    It did not train in the 2018 program. Here no ReLU follows the heads, where it kept mu and
    logvar from being negative, nor the last layer, where it kept every pixel's mean above
    a half; and weights start at the scale that suits ReLU, with which twelve layers learn
    faster than from torch's own.
    """

    def build(self, config: ModelConfig) -> None:
        check_shape("fcn", self.image_shape, (1, 28, 28))
        hidden = [int(config.model_multiplier * width) for width in (4, 8, 16, 32, 64)]
        widths = [1 + self.num_classes, *hidden, self.latent_size]
        shared = len(ENCODER_STRIDES) - config.split_filter
        self.shared = _encoder(widths, 0, shared)
        self.mu_head = _encoder(widths, shared, len(ENCODER_STRIDES))
        self.logvar_head = _encoder(widths, shared, len(ENCODER_STRIDES))
        layers: list[nn.Module] = []
        widths = [self.code_size, *reversed(hidden), 1]
        for i, (kernel, stride) in enumerate(zip(DECODER_KERNELS, DECODER_STRIDES, strict=True)):
            padding = DECODER_PADDINGS[i]
            layers += [
                nn.ConvTranspose2d(widths[i], widths[i + 1], kernel, stride, padding),
                nn.ReLU(),
            ]
        self.decoder = nn.Sequential(*layers[:-1])
        init_for_relu(self)

    def infer(self, images: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        features = self.shared(with_label_planes(images, label))
        return self.mu_head(features).flatten(1), self.logvar_head(features).flatten(1)

    def generate(self, code: Tensor) -> Tensor:
        return self.decoder(code[:, :, None, None])


def _encoder(widths: Sequence[int], start: int, stop: int) -> nn.Sequential:
    """Layers ``start .. stop - 1`` of the encoder; no ReLU after the very last."""
    layers: list[nn.Module] = []
    for i in range(start, stop):
        layers += [nn.Conv2d(widths[i], widths[i + 1], 3, ENCODER_STRIDES[i]), nn.ReLU()]
    return nn.Sequential(*(layers[:-1] if stop == len(ENCODER_STRIDES) else layers))
