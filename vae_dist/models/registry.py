"""The models by name. A new model of ours is one file beside this one and one line here.

Models of others are named ``module:class``, or by the name that an installed package gave them
(`data_pipeline.plugins`, group `GROUP`).
"""

from __future__ import annotations

import re
from typing import Any

from data_pipeline.errors import nearest
from data_pipeline.plugins import installed, load_installed, load_object

MODELS: dict[str, str] = {
    "fc": "vae_dist.models.fc:FullyConnected",
    "fc_conv": "vae_dist.models.fc_conv:WholeImageConvolution",
    "fcn": "vae_dist.models.fcn:FullyConvolutional",
    "fcns": "vae_dist.models.fcns:SmallConvolutional",
    "fcns_1n": "vae_dist.models.fcns_1n:OneByN",
    "conv": "vae_dist.models.conv:ResidualConvolutional",
}

AUTO = "auto"
"""In the place of a name: by the size of the images, see `ModelConfig.fitted`."""

GROUP = "vae_dist.models"


class ModelName:
    """The rule of ``model_type``: a known name, or ``module:class``; nothing is imported."""

    def fault(self, value: str) -> str | None:
        """What is wrong with a value, or None."""
        known = [AUTO, *MODELS, *installed(GROUP)]
        if value in known or names_a_module(value):
            return None
        fix = nearest(value, known)
        return fix if fix.endswith("?") else f"{fix}, or MODULE:CLASS"


def names_a_module(model_type: str) -> bool:
    """Whether a model's name says which module is to be imported."""
    return re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", model_type) is not None


def find_family(model_type: str) -> Any:
    """Import what ``model_type`` names."""
    asked = f"--model-type {model_type}"
    if model_type in MODELS:
        return load_object(MODELS[model_type], asked)
    if names_a_module(model_type):
        return load_object(model_type, asked)
    return load_installed(GROUP, model_type)
