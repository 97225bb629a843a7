"""What a model is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from data_pipeline.checks import AtLeast, Within, check_fields
from data_pipeline.errors import UserError
from vae_dist.models.registry import MODELS, ModelName


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: its family, its size, and what its encoder sees."""

    model_type: Annotated[
        str, ModelName(), tyro.conf.arg(metavar="{" + ",".join(MODELS) + "}|MODULE:CLASS")
    ] = "fcn"
    """Family of the model (docs/models.md describes each), or a class of your own as in
    my_package.my_module:MyVAE (docs/extending.md)."""

    latent_size: Annotated[int, AtLeast(1), tyro.conf.arg(aliases=["--latent-space-size"])] = 10
    """Number of latent variables."""

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
        if self.checkpoint_activations and self.model_type in set(MODELS) - {"conv"}:
            raise UserError(
                f"--checkpoint-activations: {self.model_type} does not checkpoint;"
                " Fix: --model-type conv, or without the flag"
            )
