"""The run folder ``runs/NAME``: its files, its state, and models rebuilt from it."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder
from vae_dist.losses import LossConfig
from vae_dist.models import ModelConfig, build_model, import_seed_state, seed_model
from vae_dist.objective import Objective
from vae_dist.run.checkpoint import (
    SCHEMA,
    load_checkpoint,
    newest_checkpoint,
    resolve_checkpoint,
    write_json,
)
from vae_dist.run.data import check_data, data_of

_PACKAGES = ("torch", "torchvision", "accelerate", "webdataset", "numpy", "safetensors", "kornia")


class RunFolder:
    """Paths of a run and the record of its state.

    Parameters
    ----------
    path : Path
        ``RUNS_DIR/NAME``. Made when first written to.
    status_copy : Path, optional
        A second place for the status.
    """

    def __init__(self, path: Path, status_copy: Path | None = None) -> None:
        self.path = path
        self._status_copy = status_copy
        self.checkpoints = path / "checkpoints"
        self._status: dict[str, Any] = {"schema": 1}

    def make(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder, or take the one that is there.

        Raises
        ------
        ValueError
            If it holds checkpoints and neither `resume` nor `overwrite` was asked for.
        """
        if newest_checkpoint(self.checkpoints) and not (resume or overwrite):
            raise UserError(
                f"{self.path} holds a run already: go on with it by --resume auto, start over "
                "by --overwrite True, or give another --name"
            )
        self.path.mkdir(parents=True, exist_ok=True)
        if overwrite and not resume:
            for checkpoint in self.checkpoints.glob("step-*"):
                (checkpoint / "meta.json").unlink(missing_ok=True)
            for link in ("best", "last"):
                (self.checkpoints / link).unlink(missing_ok=True)
            for record in self.path.glob("*.jsonl"):
                record.unlink()

    def set_status(self, **fields: Any) -> None:
        """Merge `fields` into ``status.json``, atomically."""
        self._status |= fields
        self._status["time"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        write_json(self.path / "status.json", self._status)
        if self._status_copy is not None:
            write_json(self._status_copy, self._status)

    def write_environment(self, device: torch.device, world_size: int) -> None:
        """Write ``environment.json``: versions, commit, host, device, command."""
        versions: dict[str, str | None] = {}
        for name in _PACKAGES:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                versions[name] = None
        write_json(
            self.path / "environment.json",
            {
                "python": platform.python_version(),
                "platform": platform.platform(),
                "packages": versions,
                "git_commit": _git_commit(),
                "host": socket.gethostname(),
                "cpus": os.cpu_count(),
                "world_size": world_size,
                "device": _device_name(device),
                "cuda": torch.version.cuda,
                "slurm_job_id": os.environ.get("SLURM_JOB_ID"),
                "command": sys.argv,
            },
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model, rebuilt from files alone.

    Attributes
    ----------
    name : str
        Name of the run.
    objective : Objective
        The module with its weights, in evaluation mode.
    config : dict
        What ``config.json`` holds (for a 2018 checkpoint: what it implies).
    image_shape : tuple of int
        (C, H, W).
    num_classes : int
        Classes of the training data; 0 where it had no labels.
    step : int
        Optimizer steps the weights have seen.
    content_hash : str
        SHA-256 over the weights and what else decides the latents.
    path : Path
        The checkpoint they came from.
    """

    name: str
    objective: Objective
    config: dict[str, Any]
    image_shape: tuple[int, int, int]
    num_classes: int
    step: int
    content_hash: str
    path: Path

    def check_data(self, data: DataFolder, *, allow: bool) -> str:
        """Refuse data that the run does not belong to; see `vae_dist.run.data.check_data`."""
        return check_data(self.name, self.config.get("data", {}), data, allow=allow)


def load_run(path: str | Path, device: torch.device | str = "cpu", which: str = "best") -> Run:
    """Rebuild a model from a run folder, a checkpoint folder or a 2018 ``.pth.tar``.

    Parameters
    ----------
    path : str or Path
    device : torch.device or str
    which : str
        ``"best"`` or ``"last"``, for a run folder.

    Raises
    ------
    ValueError
        If there is no complete checkpoint, or its files do not fit together.
    """
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such run or checkpoint")
    if path.is_file():
        return _load_seed_run(path, device)
    checkpoint = resolve_checkpoint(path, which)
    folder = checkpoint.parent.parent
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{folder}/config.json: cannot be read ({error})") from error
    if config.get("schema") != SCHEMA:
        raise UserError(f"{folder}/config.json: schema {config.get('schema')} is not known here")
    weights, _, meta = load_checkpoint(checkpoint)
    model_config, loss_config = ModelConfig(**config["model"]), LossConfig(**config["loss"])
    shape = tuple(config["image_shape"])
    model = build_model(
        model_config, shape, config["num_classes"], config["data"]["mean"], config["data"]["std"]
    )
    objective = Objective(model, loss_config)
    try:
        objective.load_state_dict(weights)
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
    )


def _load_seed_run(path: Path, device: torch.device | str) -> Run:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or "state_dict" not in content:
        raise UserError(f"{path}: not a checkpoint of the 2018 program")
    model_type, latents = seed_model(content["state_dict"])
    model_config = ModelConfig(model_type=model_type, latent_size=latents)
    objective = Objective(build_model(model_config, (1, 28, 28), 10), LossConfig())
    weights = import_seed_state(content["state_dict"], model_type)
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


def _git_commit() -> str | None:
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
