"""From batches to a trained variational autoencoder."""

from typing import TYPE_CHECKING

from data_pipeline.exports import exports

if TYPE_CHECKING:
    from vae_dist.models import MODELS, build_model
    from vae_dist.run.load import load_run
    from vae_dist.run.trained import Run
    from vae_dist.train.callbacks import Callback
    from vae_dist.train.settings import Settings
    from vae_dist.train.trainer import Trainer
    from vae_dist.transformer import VAETransformer

__all__ = [
    "MODELS",
    "Callback",
    "Run",
    "Settings",
    "Trainer",
    "VAETransformer",
    "build_model",
    "load_run",
]

__getattr__ = exports(
    __name__,
    {
        "MODELS": "vae_dist.models",
        "Callback": "vae_dist.train.callbacks",
        "Run": "vae_dist.run.trained",
        "Settings": "vae_dist.train.settings",
        "Trainer": "vae_dist.train.trainer",
        "VAETransformer": "vae_dist.transformer",
        "build_model": "vae_dist.models",
        "load_run": "vae_dist.run.load",
    },
)


def __dir__() -> list[str]:
    return __all__
