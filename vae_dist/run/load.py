"""Rebuilding a trained model from the files of a run."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.records import read_json, read_record
from data_pipeline.values import BYTES, Values
from vae_dist.losses import LossConfig
from vae_dist.mirror.fetch import local_copy
from vae_dist.models import ModelConfig, build_model
from vae_dist.models.registry import names_a_module
from vae_dist.objective import Objective
from vae_dist.run.article2018 import IMAGE_SHAPE, NUM_CLASSES, read_article2018
from vae_dist.run.checkpoint import SCHEMA, load_model
from vae_dist.run.data import data_of
from vae_dist.run.tensor_files import load_weights
from vae_dist.run.trained import Run
from vae_dist.run.which_checkpoint import resolve_checkpoint
from vae_dist.train.ema import split_average


def load_run(
    path: str | Path,
    device: torch.device | str = "auto",
    which: str = "best",
    *,
    allow_code: bool = False,
) -> Run:
    """Rebuild a model from a run, a checkpoint or an exported folder, or a 2018 ``.pth.tar``.

    Parameters
    ----------
    path : str or Path
        Or an address (``s3://…``, ``hf://…``), which is fetched into the user's cache folder.
    device : torch.device or str
        ``"auto"`` takes a GPU where there is one.
    which : str
        ``"best"`` or ``"last"``, for a run folder.
    allow_code : bool
        Import the module that ``config.json`` names, where the model is one of
        ``--model-type MODULE:CLASS``: for runs that you trust.

    Raises
    ------
    ValueError
        If there is no complete checkpoint, or its files do not fit together, or the model is
        code that was not allowed.
    """
    path, device = local_copy(path), _device(device)
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    if path.is_file():
        return _load_article2018(path, device)
    if (path / "model.safetensors").is_file() and not (path / "meta.json").is_file():
        return _load_exported(path, device, allow_code)
    checkpoint = resolve_checkpoint(path, which)
    weights, meta = load_model(checkpoint)
    weights, average = split_average(weights)
    file = checkpoint.parent.parent / "config.json"
    raw = read_json(file)
    config = _read_config(raw, file, allow_code)
    objective = _objective(config, average or weights, file, checkpoint)
    decisive = json.dumps([meta.sha256["model.safetensors"], raw["model"]], sort_keys=True)
    return Run(
        name=file.parent.name,
        objective=objective.to(device).eval(),
        config=raw | {"data": config.data | data_of(checkpoint)},
        image_shape=config.image_shape,
        num_classes=config.num_classes,
        step=meta.step,
        content_hash=hashlib.sha256(decisive.encode()).hexdigest(),
        path=checkpoint,
        averaged=average is not None,
        values=config.values,
    )


def _load_exported(folder: Path, device: torch.device, allow_code: bool) -> Run:
    """What ``vae-dist export`` wrote, also as the Hub hands it out."""
    file, path = folder / "config.json", folder / "model.safetensors"
    raw = read_json(file)
    config = _read_config(raw, file, allow_code)
    weights = load_weights(path)
    exported = read_record(_Exported, raw.get("exported", {}), f"{file}, exported")
    return Run(
        name=exported.run or folder.name,
        objective=_objective(config, weights, file, path).to(device).eval(),
        config=raw,
        image_shape=config.image_shape,
        num_classes=config.num_classes,
        step=exported.step,
        content_hash=hashlib.sha256(path.read_bytes()).hexdigest(),
        path=path,
        averaged=exported.averaged,
        values=config.values,
    )


def _read_config(raw: dict[str, Any], file: Path, allow_code: bool) -> _Config:
    """What a ``config.json`` says, if its model may be built: a file of others runs no code."""
    config = read_record(_Config, raw, str(file), ignore_unknown=True)
    if names_a_module(config.model.model_type) and not allow_code:
        raise UserError(
            f"{file}: its model is the code of {config.model.model_type}, which is not a part of "
            "vae-dist and was not imported; Fix: if you trust both the run and that module, "
            "--allow-code True (in Python allow_code=True)"
        )
    return config


def _objective(config: _Config, weights: dict[str, Tensor], file: Path, where: Path) -> Objective:
    """The module that a ``config.json`` describes, with these weights."""
    # First without memory: a damaged number must not ask for a model that nobody can hold.
    try:
        with torch.device("meta"):
            empty = config.objective()
    except (RuntimeError, OverflowError) as error:
        raise UserError(f"{file}: damaged: no model can be of that size") from error
    wanted = {name: value.shape for name, value in empty.state_dict().items()}
    if odd := [n for n in wanted | weights if wanted.get(n) != getattr(weights.get(n), "shape", 0)]:
        raise UserError(
            f"{where}: weights do not fit config.json: {', '.join(sorted(odd)[:5])} missing, "
            "unknown or of another shape"
        )
    objective = config.objective()
    objective.load_state_dict(weights)
    return objective


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Config:
    """What a model is rebuilt from, out of ``config.json``."""

    schema: int
    image_shape: tuple[int, int, int]
    num_classes: int
    model: ModelConfig
    loss: LossConfig
    data: dict[str, Any]

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(f"schema {self.schema} is not known here; update vae-dist")
        if min(self.image_shape) < 1 or self.num_classes < 0:
            raise UserError("image_shape must be positive and num_classes not negative")

    @property
    def _scale(self) -> _Scale:
        return read_record(_Scale, self.data, "config.json, data", ignore_unknown=True)

    @property
    def values(self) -> Values:
        """What the stored values of the training data mean."""
        return Values(self._scale.dtype, self._scale.scale)

    def objective(self) -> Objective:
        """The model and its losses, untrained."""
        scale = self._scale
        if not len(scale.mean) == len(scale.std) == self.image_shape[0]:
            raise UserError(f"config.json, data: mean and std must be of {self.image_shape[0]}")
        model = build_model(self.model, self.image_shape, self.num_classes, scale.mean, scale.std)
        return Objective(model, self.loss)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Exported:
    run: str = ""
    step: int = 0
    averaged: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Scale:
    mean: list[float]
    std: list[float]
    dtype: str = "uint8"
    scale: tuple[float, float] | None = BYTES


def _load_article2018(path: Path, device: torch.device) -> Run:
    held = read_article2018(path)
    objective = Objective(build_model(held.model, IMAGE_SHAPE, NUM_CLASSES), LossConfig())
    objective.model.load_state_dict(held.weights)
    with path.open("rb") as file:
        content_hash = hashlib.file_digest(file, "sha256").hexdigest()
    return Run(
        name=path.name.removesuffix(".tar").removesuffix(".pth"),
        objective=objective.to(device).eval(),
        config={
            "schema": SCHEMA,
            "image_shape": list(IMAGE_SHAPE),
            "num_classes": NUM_CLASSES,
            "model": dataclasses.asdict(held.model),
            "loss": dataclasses.asdict(LossConfig()),
        },
        image_shape=IMAGE_SHAPE,
        num_classes=NUM_CLASSES,
        step=held.epoch,
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
