"""Run folders without a training, for tests of what is done with a trained run."""

from pathlib import Path
from typing import Any

import torch

from data_pipeline.files import write_json
from data_pipeline.folder import DataFolder
from vae_dist.losses import LossConfig
from vae_dist.models import ModelConfig, build_model
from vae_dist.objective import Objective
from vae_dist.run.checkpoint import link, save_checkpoint
from vae_dist.run.data import describe_data


def write_run(
    folder: Path, data: DataFolder, seed: int = 0, loss: LossConfig | None = None, **model: Any
) -> Path:
    """An untrained run folder, as the trainer lays it out."""
    torch.manual_seed(seed)
    config = ModelConfig(**{"model_type": "fc", "latent_size": 4, **model})
    manifest = data.manifest
    shape = tuple(manifest.image_shape)
    loss = loss or LossConfig()
    objective = Objective(build_model(config, shape, 10), loss)
    folder.mkdir(parents=True)
    write_json(
        folder / "config.json",
        {
            "schema": 1,
            "image_shape": list(shape),
            "num_classes": 10,
            "classes": manifest.classes,
            "data": {
                name: describe_data(data)[name]
                for name in ("mean", "std", "dtype", "scale", "types")
            },
            "model": vars(config),
            "loss": vars(loss),
        },
    )
    (folder / "metrics.jsonl").write_text('{"split": "val", "step": 1, "loss": 2.0}\n')
    saved = save_checkpoint(folder / "checkpoints", objective.state_dict(), {}, {"step": 1})
    link(folder / "checkpoints", "best", saved)
    return folder
