"""What every model shares: labels, normalisation, and a bound on the log-variance."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_pipeline.errors import UserError
from vae_dist.gradients import Squeeze
from vae_dist.models.config import ModelConfig, no_checkpoints, no_grid

LINEAR_LOGVAR, EXTRA_LOGVAR = 10.0, 5.0


def bound_logvar(logvar: Tensor) -> Tensor:
    """Keep a log-variance within 15 of zero; within 10 it is left as it is.

    Beyond 10 it is squeezed smoothly, so that a unit which went too far still has a
    gradient that brings it back.
    """
    return Squeeze.apply(logvar, LINEAR_LOGVAR, EXTRA_LOGVAR)


def start_heads(mean: nn.Linear | nn.Conv2d, logvar: nn.Linear | nn.Conv2d) -> None:
    """Start values of the heads that keep every latent in use.

    With torch's own start the posterior begins as wide as the prior, the decoder learns to
    ignore the noisiest latents, and their KL falls to zero (posterior collapse). Here the means
    begin orthogonal and the standard deviations at exp(-1), the same for every image.
    """
    nn.init.orthogonal_(mean.weight)
    with torch.no_grad():
        logvar.weight.mul_(0.1)
    for head, value in ((mean, 0.0), (logvar, -2.0)):
        assert head.bias is not None
        nn.init.constant_(head.bias, value)


def check_shape(name: str, image_shape: tuple[int, int, int], wanted: tuple[int, int, int]) -> None:
    """Refuse an image shape that a model is not made for."""
    if image_shape != wanted:
        have, want = ("x".join(map(str, s)) for s in (image_shape, wanted))
        raise UserError(
            f"--model-type {name}: made for images {want}, the data holds {have};"
            " choose fc, fc_conv or conv, which take any shape"
        )


def latents_in_words(shape: Sequence[int]) -> str:
    """``10 latents``, or of a grid ``4,096 latents (4x32x32)``."""
    if len(shape) == 1:
        return f"{shape[0]} latents"
    return f"{math.prod(shape):,} latents ({'x'.join(map(str, shape))})"


class VAEModel(nn.Module, ABC):
    """Encoder and decoder of one variational autoencoder.

    A subclass writes `build`, `infer` and `generate`; users call `encode` and `decode`. No
    layer may keep statistics over the batch, since those would differ with the world size.

    Parameters
    ----------
    config : ModelConfig
    image_shape : tuple of int
        Channels, height, width.
    num_classes : int
        Labels lie in ``0 .. num_classes - 1``; used by a conditional model alone.
    pixel_mean, pixel_std : sequence of float, optional
        Of the training set by channel, for ``normalise="set"``. They are stored with the
        weights, so a checkpoint brings its own.
    """

    def __init__(
        self,
        config: ModelConfig,
        image_shape: tuple[int, int, int],
        num_classes: int,
        pixel_mean: Sequence[float] | None = None,
        pixel_std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.image_shape: tuple[int, int, int] = image_shape
        self.latent_shape = self.shape_of_latents(config)
        """Of one image's latents inside the model: (z,), or (c, h, w) of a grid."""
        self.latent_size = math.prod(self.latent_shape)
        self.num_classes = num_classes if config.conditional else 0
        if config.conditional and num_classes < 1:
            raise UserError("--conditional: the data has no classes; Fix: without the flag")
        self.code_size = self.latent_size + self.num_classes
        """Inputs of the decoder: the latents, then the label one-hot."""
        self.normalisation = config.normalise
        if config.normalise == "set":
            channels = image_shape[0]
            mean = [0.0] * channels if pixel_mean is None else pixel_mean
            std = [1.0] * channels if pixel_std is None else [s or 1.0 for s in pixel_std]
            self.register_buffer("pixel_mean", torch.tensor(mean).reshape(1, channels, 1, 1))
            self.register_buffer("pixel_std", torch.tensor(std).reshape(1, channels, 1, 1))
        if self.num_classes:
            self.register_buffer("class_index", torch.arange(self.num_classes), persistent=False)
        self.build(config)
        if config.checkpoint_activations and not any(
            isinstance(module, Checkpointed) for module in self.modules()
        ):
            raise no_checkpoints(config.model_type)

    class_index: Tensor
    pixel_mean: Tensor
    pixel_std: Tensor

    def shape_of_latents(self, config: ModelConfig) -> tuple[int, ...]:
        """(z,); a model that has a grid of latents overrides it. Outside they are always flat.

        Called before `build`, when ``image_shape`` is known.
        """
        if config.latent_grid:
            raise no_grid(config.model_type)
        return (config.latent_size,)

    @abstractmethod
    def build(self, config: ModelConfig) -> None:
        """Make the layers, for ``image_shape``, ``num_classes``, ``latent_size``, ``code_size``."""

    @abstractmethod
    def infer(self, images: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and raw log-variance, each (n, latent_size), of normalised images.

        ``label`` is one-hot (n, num_classes), or None where the model is not conditional.
        """

    @abstractmethod
    def generate(self, code: Tensor) -> Tensor:
        """Logits (n, C, H, W) of codes (n, code_size)."""

    def encode(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Parameters of q(z|x), fp32.

        Parameters
        ----------
        images : Tensor
            (n, C, H, W), float, in [0, 1].
        labels : Tensor, optional
            (n,), int64; -1, or no tensor at all, means unlabelled.

        Returns
        -------
        mu, logvar : Tensor
            Each (n, latent_size).
        """
        mu, logvar = self.infer(self._normalise(images), self._one_hot(images, labels))
        return mu.float(), bound_logvar(logvar.float())

    def decode(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits (n, C, H, W) of latents (n, latent_size)."""
        label = self._one_hot(z, labels)
        return self.generate(z if label is None else torch.cat([z, label.to(z.dtype)], dim=1))

    def _one_hot(self, like: Tensor, labels: Tensor | None) -> Tensor | None:
        if not self.num_classes:
            return None
        if labels is None:
            return like.new_zeros(like.shape[0], self.num_classes)
        return torch.eq(labels[:, None], self.class_index).to(like.dtype)

    def _normalise(self, images: Tensor) -> Tensor:
        if self.normalisation == "none":
            return images
        if self.normalisation == "set":
            return (images - self.pixel_mean) / self.pixel_std
        variance, mean = torch.var_mean(images, dim=(1, 2, 3), keepdim=True, correction=0)
        return (images - mean) / torch.sqrt(variance + 1e-6)


class Checkpointed(nn.Module, ABC):
    """A block that, with ``again``, keeps only its input and computes the rest in backward.

    Its `compute` must draw nothing at random: no generator's state is kept.
    """

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.again = again

    @abstractmethod
    def compute(self, features: Tensor) -> Tensor:
        """The block's output."""

    def forward(self, features: Tensor) -> Tensor:
        """The block's output, checkpointed where gradients are wanted."""
        if not (self.again and torch.is_grad_enabled()):
            return self.compute(features)
        output: Tensor = checkpoint(
            self.compute, features, use_reentrant=False, preserve_rng_state=False
        )
        return output


class LabelBias(nn.Module):
    """Adds a learned vector of the label to a layer's output; nothing without a label."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Linear(num_classes, width, bias=False) if num_classes else None

    def forward(self, hidden: Tensor, label: Tensor | None) -> Tensor:
        if self.embed is None or label is None:
            return hidden
        bias = self.embed(label)
        return hidden + bias.reshape(bias.shape + (1,) * (hidden.ndim - 2))


def with_label_planes(images: Tensor, label: Tensor | None) -> Tensor:
    """Images with one constant channel a class after their own; alone without a label."""
    if label is None:
        return images
    planes = label[:, :, None, None].expand(-1, -1, *images.shape[2:])
    return torch.cat([images, planes], dim=1)


def init_for_relu(module: nn.Module) -> None:
    """Weights of He et al. (2015) for every layer, biases zero.

    A transposed convolution of kernel k and stride s sums ``in x (k/s)^2`` products for
    each output, which is its fan-in.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d):
            fan_in = float(layer.weight[0].numel())
        elif isinstance(layer, nn.ConvTranspose2d):
            fan_in = layer.in_channels * layer.weight[0, 0].numel() / math.prod(layer.stride)
        elif isinstance(layer, nn.ConvTranspose1d):
            fan_in = layer.in_channels
        else:
            continue
        nn.init.normal_(layer.weight, std=math.sqrt(2 / fan_in))
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
