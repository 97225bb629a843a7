"""A residual convolutional autoencoder for images of any shape."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F

from data_pipeline.errors import UserError
from vae_dist.models.base import Checkpointed, VAEModel, start_heads, with_label_planes
from vae_dist.models.config import CONV_SIDE, ModelConfig

SMALLEST_SIDE = 4


def norm(width: int) -> nn.GroupNorm:
    """Group normalisation, over each image by itself, with up to eight groups."""
    return nn.GroupNorm(math.gcd(width, 8), width)


class Residual(Checkpointed):
    """Two 3x3 convolutions, each after normalisation and SiLU, added to the input."""

    def __init__(self, width: int, again: bool) -> None:
        super().__init__(again)
        self.layers = nn.Sequential(
            norm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
            norm(width),
            nn.SiLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def compute(self, features: Tensor) -> Tensor:
        return features + self.layers(features)


class Upsample(Checkpointed):
    """Enlarges features to a given size by repetition, then a 3x3 convolution."""

    def __init__(self, width_in: int, width_out: int, size: tuple[int, int], again: bool) -> None:
        super().__init__(again)
        self.size = size
        self.conv = nn.Conv2d(width_in, width_out, 3, padding=1)

    def compute(self, features: Tensor) -> Tensor:
        return self.conv(F.interpolate(features, size=self.size, mode="nearest"))


class ResidualConvolutional(VAEModel):
    """`conv`: stages of residual blocks, each stage half the size of the one before.

    Any number of channels, and sides of 8 pixels or more that need not be equal or even.
    Sides are halved (rounding up) until the longer one is at most four pixels or the
    shorter one is a single pixel. Stage widths are w, 2w, 4w, 4w, ... for w = ``conv_width``; each stage has
    ``conv_depth`` blocks. Normalisation is over groups of channels of one image, never
    over the batch.

    With ``latent_grid`` c and ``latent_factor`` f the sides are halved log2(f) times, and each
    cell of what is then left, c x H/f x W/f (rounded up), has latents of its own by 1x1
    convolutions: the number of parameters does not depend on the image's size.
    """

    def shape_of_latents(self, config: ModelConfig) -> tuple[int, ...]:
        if not config.latent_grid:
            return super().shape_of_latents(config)
        _, height, width = self.image_shape
        factor = config.latent_factor
        if min(height, width) < factor:
            most = 2 ** (min(height, width).bit_length() - 1)
            raise UserError(
                f"--latent-factor {factor}: the data's images are {height}x{width};"
                f" Fix: --latent-factor {most} or less"
            )
        return config.latent_grid, math.ceil(height / factor), math.ceil(width / factor)

    def build(self, config: ModelConfig) -> None:
        channels, height, width = self.image_shape
        if min(height, width) < CONV_SIDE:
            raise UserError(
                f"--model-type conv: takes sides of {CONV_SIDE} pixels or more, the data's are"
                f" {height}x{width}; resize them with prepare"
            )
        self.has_grid = len(self.latent_shape) > 1
        halvings = config.latent_factor.bit_length() - 1 if self.has_grid else None
        sizes = _sizes(height, width, halvings)
        widths = [config.conv_width * min(2**i, 4) for i in range(len(sizes))]
        depth, again = config.conv_depth, config.checkpoint_activations

        down: list[nn.Module] = [nn.Conv2d(channels + self.num_classes, widths[0], 3, padding=1)]
        for i, stage in enumerate(widths):
            if i:
                down.append(nn.Conv2d(widths[i - 1], stage, 3, stride=2, padding=1))
            down += [Residual(stage, again) for _ in range(depth)]
        self.encoder = nn.Sequential(*down, norm(widths[-1]), nn.SiLU())

        self.top = (widths[-1], *sizes[-1])
        self.mu_head: nn.Module
        self.logvar_head: nn.Module
        self.entry: nn.Module
        if self.has_grid:
            cells = self.latent_shape[0]
            mean, logvar = (nn.Conv2d(widths[-1], cells, 1) for _ in range(2))
            start_heads(mean, logvar)  # without it the latents of many cells stay unused
            self.mu_head, self.logvar_head = mean, logvar
            self.entry = nn.Conv2d(cells + self.num_classes, widths[-1], 3, padding=1)
        else:
            features = math.prod(self.top)
            self.mu_head = nn.Linear(features, self.latent_size)
            self.logvar_head = nn.Linear(features, self.latent_size)
            self.entry = nn.Linear(self.code_size, features)

        up: list[nn.Module] = []
        for i in reversed(range(len(widths))):
            up += [Residual(widths[i], again) for _ in range(depth)]
            if i:
                up.append(Upsample(widths[i], widths[i - 1], sizes[i - 1], again))
        last = nn.Conv2d(widths[0], channels, 3, padding=1)
        self.decoder = nn.Sequential(*up, norm(widths[0]), nn.SiLU(), last)

    def infer(self, images: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        features = self.encoder(with_label_planes(images, label))
        if self.has_grid:
            return self.mu_head(features).flatten(1), self.logvar_head(features).flatten(1)
        features = features.flatten(1)
        return self.mu_head(features), self.logvar_head(features)

    def generate(self, code: Tensor) -> Tensor:
        if not self.has_grid:
            return self.decoder(self.entry(code).unflatten(1, self.top))
        grid = code[:, : self.latent_size].unflatten(1, self.latent_shape)
        label = code[:, self.latent_size :] if self.num_classes else None
        return self.decoder(self.entry(with_label_planes(grid, label)))


def _sizes(height: int, width: int, halvings: int | None) -> list[tuple[int, int]]:
    """Height and width of each stage: so many halvings, or as many as the class says."""
    sizes = [(height, width)]

    def ends() -> bool:
        if halvings is not None:
            return len(sizes) > halvings
        return max(height, width) <= SMALLEST_SIDE or min(height, width) == 1

    while not ends():
        height, width = math.ceil(height / 2), math.ceil(width / 2)
        sizes.append((height, width))
    return sizes
