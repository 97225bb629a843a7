"""One hidden layer each way, with weights laid out as whole-image convolutions."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from vae_dist.models.base import LabelBias, VAEModel, start_heads
from vae_dist.models.config import ModelConfig

ENCODER_WIDTH, DECODER_WIDTH = 32, 118


class WholeImageConv(nn.Conv2d):
    """A convolution whose kernel covers its input: vectors (n, out) from (n, in, h, w).

    It is a matrix product and computed as one.
    """

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.flatten(1), self.weight.flatten(1), self.bias)


class WholeImageConvTranspose(nn.ConvTranspose2d):
    """A transposed convolution of one position: (n, out, h, w) from vectors (n, in).

    It begins with the weights of the matrix product that it is: torch's own start for a
    transposed convolution counts the kernel as inputs, is too small here, and loses a latent.
    """

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.in_channels)
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        channels, height, width = self.weight.shape[1:]
        bias = None
        if self.bias is not None:  # of each output: added within the product
            bias = self.bias[:, None].expand(channels, height * width).flatten()
        return F.linear(input, self.weight.flatten(1).t(), bias).view(
            input.shape[0], *self.weight.shape[1:]
        )


class WholeImageConvolution(VAEModel):
    """`fc_conv`: a whole-image convolution to 32, heads of 1x1, and back over 118.

    The 2018 article's best model, 119,591 parameters at ten latents. Weights keep the 2018 article's
    names and shapes, so its checkpoints and their optimizer state load as they are.
    Takes any image shape.
    """

    def build(self, config: ModelConfig) -> None:
        channels, *size = self.image_shape
        kernel = (size[0], size[1])
        self.fc1 = WholeImageConv(channels, ENCODER_WIDTH, kernel)
        self.fc21 = WholeImageConv(ENCODER_WIDTH, self.latent_size, 1)
        self.fc22 = WholeImageConv(ENCODER_WIDTH, self.latent_size, 1)
        self.fc3 = WholeImageConvTranspose(self.code_size, DECODER_WIDTH, 1)
        self.fc4 = WholeImageConvTranspose(DECODER_WIDTH, channels, kernel)
        start_heads(self.fc21, self.fc22)
        self.label_bias = LabelBias(self.num_classes, ENCODER_WIDTH)

    def infer(self, images: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        hidden = F.relu(self.label_bias(self.fc1(images), label))
        return self.fc21(hidden), self.fc22(hidden)

    def generate(self, code: Tensor) -> Tensor:
        return self.fc4(F.relu(self.fc3(code)).flatten(1))
