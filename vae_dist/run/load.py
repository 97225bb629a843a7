"""Rebuilding a trained model from the files of a run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import torch

from data_pipeline.errors import UserError
from vae_dist.losses import LossConfig
from vae_dist.models import ModelConfig, article2018_model, build_model, import_article2018_state
from vae_dist.objective import Objective
from vae_dist.run.checkpoint import SCHEMA, load_checkpoint, resolve_checkpoint
from vae_dist.run.data import data_of
from vae_dist.run.trained import Run
from vae_dist.train.ema import split_average


def load_run(path: str | Path, device: torch.device | str = "auto", which: str = "best") -> Run:
    """Rebuild a model from a run folder, a checkpoint folder or a 2018 ``.pth.tar``.

    Parameters
    ----------
    path : str or Path
    device : torch.device or str
        ``"auto"`` takes a GPU where there is one.
    which : str
        ``"best"`` or ``"last"``, for a run folder.

    Raises
    ------
    ValueError
        If there is no complete checkpoint, or its files do not fit together.
    """
    path, device = Path(path), _device(device)
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    if path.is_file():
        return _load_article2018_run(path, device)
    checkpoint = resolve_checkpoint(path, which)
    folder = checkpoint.parent.parent
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{folder}/config.json: cannot be read ({error})") from error
    if config.get("schema") != SCHEMA:
        raise UserError(f"{folder}/config.json: schema {config.get('schema')} is not known here")
    weights, _, meta = load_checkpoint(checkpoint)
    weights, average = split_average(weights)
    model_config, loss_config = ModelConfig(**config["model"]), LossConfig(**config["loss"])
    shape = tuple(config["image_shape"])
    model = build_model(
        model_config, shape, config["num_classes"], config["data"]["mean"], config["data"]["std"]
    )
    objective = Objective(model, loss_config)
    try:
        objective.load_state_dict(average or weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{checkpoint}: weights do not fit config.json ({reason})") from error
    config["data"] |= data_of(checkpoint)
    decisive = json.dumps([meta["sha256"]["model.safetensors"], config["model"]], sort_keys=True)
    return Run(
        name=folder.name,
        objective=objective.to(device).eval(),
        config=config,
        image_shape=shape,
        num_classes=config["num_classes"],
        step=meta["step"],
        content_hash=hashlib.sha256(decisive.encode()).hexdigest(),
        path=checkpoint,
        averaged=average is not None,
    )


def _load_article2018_run(path: Path, device: torch.device) -> Run:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{path}: not a checkpoint of the 2018 program")
    model_type, latents = article2018_model(content["state_dict"])
    model_config = ModelConfig(model_type=model_type, latent_size=latents)
    objective = Objective(build_model(model_config, (1, 28, 28), 10), LossConfig())
    weights = import_article2018_state(content["state_dict"], model_type)
    objective.model.load_state_dict(weights)
    with path.open("rb") as file:
        content_hash = hashlib.file_digest(file, "sha256").hexdigest()
    return Run(
        name=path.name.removesuffix(".tar").removesuffix(".pth"),
        objective=objective.to(device).eval(),
        config={
            "schema": SCHEMA,
            "image_shape": [1, 28, 28],
            "num_classes": 10,
            "model": dataclasses.asdict(model_config),
            "loss": dataclasses.asdict(LossConfig()),
        },
        image_shape=(1, 28, 28),
        num_classes=10,
        step=int(content.get("epoch", 0)),
        content_hash=content_hash,
        path=path,
    )


def _device(name: torch.device | str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: give auto, cpu or cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"--device {name}: no GPU is visible here; use cpu")
    return device
