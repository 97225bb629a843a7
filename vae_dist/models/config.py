"""What a model is built from."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from data_pipeline.checks import AtLeast, Within, check_fields
from data_pipeline.errors import UserError
from vae_dist.models.registry import AUTO, MODELS, ModelName

SMALL_IMAGE = 32 * 32
"""Pixels of a channel up to which ``auto`` takes fc_conv."""
CONV_SIDE = 8
"""Smallest side of images that conv takes."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: its family, its size, and what its encoder sees."""

    model_type: Annotated[
        str,
        ModelName(),
        tyro.conf.arg(metavar="{" + ",".join([AUTO, *MODELS]) + "}|MODULE:CLASS"),
    ] = AUTO
    """Family of the model (docs/models.md describes each); auto: fc_conv for images up to 32x32,
    conv for larger ones; or a class of your own as in my_package.my_module:MyVAE
    (docs/extending.md)."""

    latent_size: Annotated[int, AtLeast(1), tyro.conf.arg(aliases=["--latent-space-size"])] = 10
    """Number of latent variables; not with --latent-grid, whose cells are the latents."""

    latent_grid: Annotated[int, AtLeast(0)] = 0
    """conv: channels of a grid of latents, CHANNELS x H/factor x W/factor, in place of a vector of
    --latent-size (refused beside it); 0: a vector."""

    latent_factor: Annotated[int, AtLeast(1)] = 8
    """conv with --latent-grid: pixels a side that one cell stands for, a power of two."""

    model_multiplier: Annotated[float, AtLeast(0.25)] = 2.0
    """Width multiplier of fcn and fcns_1n."""

    split_filter: Annotated[int, Within(1, 6)] = 3
    """fcn: how many of its six encoder layers mu and logvar do not share."""

    conv_width: Annotated[int, AtLeast(1)] = 32
    """conv: channels of the first stage; later stages have twice, then four times as many."""

    conv_depth: Annotated[int, AtLeast(1)] = 1
    """conv: residual blocks a stage."""

    checkpoint_activations: bool = False
    """conv: keep only the inputs of its blocks for the backward pass, which computes the rest
    again: less memory, more time, the same gradients."""

    conditional: bool = False
    """Give the label to encoder and decoder (conditional VAE)."""

    normalise: Literal["none", "set", "image"] = "none"
    """What the encoder sees: pixels in [0, 1], or these less their mean over their standard
    deviation, of the training set by channel (set) or of each image (image). The
    reconstruction's target stays in [0, 1]."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.model_type in set(MODELS) - {"conv"}:  # those of others say it when they are built
            if self.checkpoint_activations:
                raise no_checkpoints(self.model_type)
            if self.latent_grid:
                raise no_grid(self.model_type)
        if self.latent_factor & (self.latent_factor - 1):
            raise UserError(f"--latent-factor {self.latent_factor}: must be a power of two")
        if self.latent_factor != type(self).latent_factor and not self.latent_grid:
            raise UserError(
                f"--latent-factor {self.latent_factor}: has no effect without --latent-grid"
            )
        if self.latent_grid and self.latent_size != type(self).latent_size:
            raise UserError(
                f"--latent-size {self.latent_size} with --latent-grid {self.latent_grid}: the cells "
                f"of the grid are the latents; Fix: --latent-size {type(self).latent_size}, its "
                "default, or without --latent-grid"
            )

    def fitted(self, image_shape: Sequence[int]) -> ModelConfig:
        """The same with the family that ``auto`` stands for.

        Parameters
        ----------
        image_shape : sequence of int
            Channels, height, width.
        """
        if self.model_type != AUTO:
            return self
        _, height, width = image_shape
        large = height * width > SMALL_IMAGE and min(height, width) >= CONV_SIDE
        of_conv = self.latent_grid or self.checkpoint_activations  # no other family has them
        return dataclasses.replace(self, model_type="conv" if large or of_conv else "fc_conv")


def no_checkpoints(model_type: str) -> UserError:
    """That a model ignores ``checkpoint_activations``."""
    return UserError(
        f"--checkpoint-activations: {model_type} does not checkpoint;"
        " Fix: --model-type conv, or without the flag"
    )


def no_grid(model_type: str) -> UserError:
    """That a model ignores ``latent_grid``."""
    return UserError(
        f"--latent-grid: {model_type} has no grid of latents;"
        " Fix: --model-type conv, or without the flag"
    )
