"""The run folder ``runs/NAME``: its files and its state."""

from __future__ import annotations

import importlib.metadata
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
from data_pipeline.redact import scrubbed
from vae_dist.run.checkpoint import newest_checkpoint, write_json

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
                "command": scrubbed(sys.argv),
            },
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
