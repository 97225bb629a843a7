"""Encoders and decoders: one file a family, one line in the registry."""

from __future__ import annotations

from collections.abc import Sequence

from data_pipeline.errors import UserError
from vae_dist.models.article2018 import article2018_model, import_article2018_state
from vae_dist.models.base import VAEModel
from vae_dist.models.config import ModelConfig
from vae_dist.models.registry import MODELS, find_family

__all__ = [
    "MODELS",
    "ModelConfig",
    "VAEModel",
    "article2018_model",
    "build_model",
    "import_article2018_state",
]


def build_model(
    config: ModelConfig,
    image_shape: Sequence[int],
    num_classes: int,
    pixel_mean: Sequence[float] | None = None,
    pixel_std: Sequence[float] | None = None,
) -> VAEModel:
    """Build the model that a config names, with torch's global random numbers.

    Parameters
    ----------
    config : ModelConfig
    image_shape : sequence of int
        Channels, height, width.
    num_classes : int
    pixel_mean, pixel_std : sequence of float, optional
        The training set's, by channel, in [0, 1]; read for ``normalise="set"`` only.

    Raises
    ------
    UserError
        If ``model_type`` names what is not there, or is no `VAEModel`.
    """
    channels, height, width = image_shape
    config = config.fitted(image_shape)
    family = find_family(config.model_type)
    if not (isinstance(family, type) and issubclass(family, VAEModel)):
        raise UserError(
            f"--model-type {config.model_type}: is no class derived from "
            "vae_dist.models.VAEModel (docs/extending.md)"
        )
    return family(config, (channels, height, width), num_classes, pixel_mean, pixel_std)
