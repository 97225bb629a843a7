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

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.files import write_json
from data_pipeline.lock import Lock
from data_pipeline.redact import scrubbed
from vae_dist.mirror.mirror import Mirror
from vae_dist.mirror.session import follow
from vae_dist.run.history import clear, go_back
from vae_dist.run.which_checkpoint import list_checkpoints, recover

_PACKAGES = ("torch", "torchvision", "accelerate", "webdataset", "numpy", "safetensors")


class RunFolder:
    """Paths of a run and the record of its state.

    Parameters
    ----------
    path : Path
        ``RUNS_DIR/NAME``. Made when first written to.
    status_copy : Path, optional
        A second place for the status.
    mirror : Mirror, optional
        Keeps a copy of the run in an object store; its address is then the run's.
    """

    def __init__(
        self, path: Path, status_copy: Path | None = None, mirror: Mirror | None = None
    ) -> None:
        self.path = path
        self.mirror = mirror
        self._status_copy = status_copy
        self.checkpoints = path / "checkpoints"
        self._status: dict[str, Any] = {"schema": 1}
        self.lock = Lock(
            path / "lock.json",
            f"{path}: is being trained",
            lambda line: print(line, file=sys.stderr, flush=True),
        )

    def take(self, *, resume: str, overwrite: bool) -> None:
        """Make the folder, or take the one that is there; nothing in it is changed yet.

        Parameters
        ----------
        resume, overwrite
            As in `RunConfig`.

        Raises
        ------
        UserError
            If another process trains in it, if it holds a run that `resume` does not go on with
            and that `overwrite` does not give up, or if it cannot be written.
        """
        with files_of_user(
            f"{self.path}: cannot be used as a run folder", "see --runs-dir, --name"
        ):
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
            try:
                recover(self.checkpoints)
                held = self.mirror is not None and self.mirror.take()
                self._check_taken(
                    resume, overwrite, held or bool(list_checkpoints(self.checkpoints))
                )
                if self.mirror is not None and self.owns(resume):
                    self.mirror.bring(self._named(resume))
            except BaseException:
                self.release()
                raise

    def follow(self, resume: str) -> None:
        """Bring what `take` brought to the main process, on each other machine once."""
        if self.mirror is not None and self.owns(resume):
            follow(self.mirror.store.address, self.path, self._named(resume))

    def _named(self, resume: str) -> str:
        return Path(resume).name if resume not in ("", "auto") else ""

    def __str__(self) -> str:
        return str(self.path if self.mirror is None else self.mirror.store)

    def _check_taken(self, resume: str, overwrite: bool, held: bool) -> None:
        if not held or overwrite or self.owns(resume):
            return
        if not resume:
            raise UserError(
                f"{self} holds a run already: go on with it by --resume auto, start over "
                "by --overwrite True, or give another --name"
            )
        raise UserError(
            f"{self} holds a run already, which does not go on from --resume {resume}: give "
            "another --name, or --overwrite True to give up the run that is there"
        )

    def owns(self, resume: str) -> bool:
        """Whether ``--resume`` goes on with the run that is in this folder."""
        if resume == "auto":
            return True
        if not resume:
            return False
        named = Path(os.path.realpath(resume))
        own = Path(os.path.realpath(self.path))
        return named in (own, own / "checkpoints") or named.parent == own / "checkpoints"

    def begin(self, step: int, epoch: int, *, own: bool) -> str:
        """Leave in the folder only what belongs to the run up to a step; see `go_back`.

        Parameters
        ----------
        step, epoch : int
            Where the run starts or goes on.
        own : bool
            It resumes what is in the folder; otherwise what is there is removed.
        """
        with files_of_user(f"{self.path}: cannot be changed"):
            if not own:
                clear(self.path)
            told = go_back(self.path, step, epoch)
            if self.mirror is not None:
                self.mirror.begin(step, own=own)
            return told

    def check(self) -> None:
        """Fail if another process has taken the run over meanwhile.

        Raises
        ------
        UserError
        """
        self.lock.check()
        if self.mirror is not None:
            self.mirror.check()

    def committed(self) -> None:
        """A checkpoint was written, and those that are not kept were removed."""
        if self.mirror is not None:
            self.mirror.committed()

    def finish(self, seconds: float) -> bool:
        """Wait a while for the copy of a run that has ended; whether the waiting is over."""
        return self.mirror is None or self.mirror.finish(seconds)

    def release(self) -> str:
        """Let others train in the folder; returns what its copy lacks, or nothing."""
        self.lock.release()
        return "" if self.mirror is None else self.mirror.close()

    def set_status(self, *, durable: bool = True, **fields: Any) -> None:
        """Merge `fields` into ``status.json``, atomically; see `write_json`."""
        self._status |= fields
        self._status["time"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        for path in (self.path / "status.json", self._status_copy):
            if path is not None:
                self.write(path, self._status, durable=durable)

    def write(self, path: Path, content: Any, *, durable: bool = True) -> None:
        """Write a JSON file of the run, unless another process has taken the folder over."""
        self.check()
        with files_of_user(f"{path}: cannot be written", "the checkpoints there stand"):
            write_json(path, content, durable=durable)

    def write_environment(self, device: torch.device, world_size: int) -> None:
        """Write ``environment.json``: versions, commit, host, device, command."""
        versions: dict[str, str | None] = {}
        for name in _PACKAGES:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                versions[name] = None
        self.write(
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
