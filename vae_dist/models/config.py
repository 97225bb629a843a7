"""What a model is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from data_pipeline.errors import UserError
from vae_dist.models.registry import MODELS


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The model: its family, its size, and what its encoder sees."""

    model_type: Annotated[str, tyro.conf.arg(metavar="{" + ",".join(MODELS) + "}")] = "fcn"
    """Family of the model (docs/models.md describes each)."""

    latent_size: Annotated[int, tyro.conf.arg(aliases=["--latent-space-size"])] = 10
    """Number of latent variables."""

    model_multiplier: float = 2.0
    """Width multiplier of fcn and fcns_1n."""

    split_filter: int = 3
    """fcn: how many of its six encoder layers mu and logvar do not share."""

    conv_width: int = 32
    """conv: channels of the first stage; later stages have twice, then four times as many."""

    conv_depth: int = 1
    """conv: residual blocks a stage."""

    conditional: bool = False
    """Give the label to encoder and decoder (conditional VAE)."""

    normalise: Literal["none", "set", "image"] = "none"
    """What the encoder sees: pixels in [0, 1], or these less their mean over their standard
    deviation, of the training set by channel (set) or of each image (image). The
    reconstruction's target stays in [0, 1]."""

    def __post_init__(self) -> None:
        if self.model_type not in MODELS:
            raise UserError(
                f"--model-type {self.model_type}: unknown; choose one of {', '.join(MODELS)}"
            )
        for name in ("latent_size", "conv_width", "conv_depth"):
            if getattr(self, name) < 1:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} {getattr(self, name)}: must be at least 1")
        if not self.model_multiplier >= 0.25:
            raise UserError(f"--model-multiplier {self.model_multiplier}: must be at least 0.25")
        if not 1 <= self.split_filter <= 6:
            raise UserError(f"--split-filter {self.split_filter}: must lie in 1..6")
        if self.normalise not in ("none", "set", "image"):
            raise UserError(f"--normalise {self.normalise}: choose none, set or image")
