"""Checkpoints that exist whole or not at all.

A checkpoint is a folder ``step-NNNNNNNN`` of ``model.safetensors``, ``trainer.pt`` and, written
last, ``meta.json``. It is written under another name, flushed to the disk and renamed, so a
kill or a full disk at any moment leaves the former checkpoints as they were.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors.torch import save

from data_pipeline.checks import AtLeast, OneOf, check_fields
from data_pipeline.errors import UserError, reason_of
from data_pipeline.files import sync, write_json
from data_pipeline.records import read_json, read_record
from vae_dist.run.tensor_files import load_weights, read_torch

SCHEMA = 1
FILES = ("model.safetensors", "trainer.pt")
REPLACED = ".replaced-"
"""What the name of a checkpoint begins with while it is replaced."""


@dataclasses.dataclass(kw_only=True)
class CheckpointConfig:
    """Checkpoints: when they are written and which are kept."""

    checkpoint_every: Annotated[int, AtLeast(0)] = 0
    """Steps from one to the next; 0: at the end of each epoch only."""
    keep_last: Annotated[int, AtLeast(1)] = 2
    """Number of the newest that are kept (and the best one)."""
    keep_every_epochs: Annotated[int, AtLeast(0)] = 0
    """Also keep the checkpoint of every epoch whose number is a multiple of this; 0: none."""
    best_by: Annotated[str, OneOf("loss", "elbo", "ssim")] = "loss"
    """The validation figure that chooses the best checkpoint: loss, elbo or ssim."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Meta:
    """What ``meta.json`` says of a checkpoint."""

    schema: int
    step: int
    sha256: dict[str, str]
    epoch: float = 0.0
    world_size: int = 1
    best: float | None = None  # the best score of the run up to here
    score: float | None = None  # of this checkpoint, where it was validated; less is better
    best_by: str = ""  # the figure that both are; empty in checkpoints of older versions
    data: dict[str, Any] = dataclasses.field(default_factory=dict)  # see vae_dist.run.data

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(f"schema {self.schema} is not known here")
        if self.step < 0 or self.epoch < 0:
            raise UserError(f"step {self.step} and epoch {self.epoch} must not be negative")
        if set(self.sha256) != set(FILES):
            raise UserError(f"sha256 must be of {' and '.join(FILES)}")


def checkpoint_path(folder: Path, step: int) -> Path:
    """Folder of the checkpoint of a step."""
    return folder / f"step-{step:08d}"


def save_checkpoint(
    folder: Path, model: dict[str, torch.Tensor], trainer: dict[str, Any], meta: dict[str, Any]
) -> Path:
    """Write ``folder/step-NNNNNNNN`` whole, then point ``folder/last`` at it.

    Parameters
    ----------
    folder : Path
        The run's ``checkpoints`` folder.
    model : dict of str to Tensor
        State of the module.
    trainer : dict
        Optimizer, scheduler, scaler and counters: tensors and plain values only.
    meta : dict
        Must hold ``step`` (optimizer steps taken); written as ``meta.json``.

    Raises
    ------
    OSError
        If the disk is full or not writable. The former checkpoints stand.
    """
    target = checkpoint_path(folder, meta["step"])
    beside = folder / f".writing-{target.name}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        tensors = {name: t.detach().cpu().contiguous() for name, t in model.items()}
        # Serialised in memory first: a full disk is then an OSError, whichever library wrote.
        buffer = io.BytesIO()
        torch.save(trainer, buffer)
        (beside / "model.safetensors").write_bytes(save(tensors))
        (beside / "trainer.pt").write_bytes(buffer.getvalue())
        hashes = {name: _sha256(beside / name) for name in FILES}
        for name in hashes:
            sync(beside / name)
        write_json(beside / "meta.json", {"schema": SCHEMA, **meta, "sha256": hashes})
        sync(beside)
        old = folder / f"{REPLACED}{target.name}"
        if target.exists():  # the same step again, as after a validation that was broken off
            target.rename(old)
        beside.rename(target)
        sync(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    link(folder, "last", target)
    return target


def link(folder: Path, name: str, target: Path) -> None:
    """Point the relative link ``folder/name`` at `target` in one step."""
    beside = folder / f".link-{name}"
    beside.unlink(missing_ok=True)
    beside.symlink_to(target.name)
    beside.replace(folder / name)


def fault_of(checkpoint: Path, files: Sequence[str] = FILES) -> str:
    """Why `files` of a checkpoint are not what its ``meta.json`` says, byte for byte; or empty."""
    try:
        wanted = read_meta(checkpoint).sha256
        for name in files:
            if _sha256(checkpoint / name) != wanted[name]:
                return f"{name} has another SHA-256"
    except UserError as error:
        return str(error)
    except OSError as error:
        return reason_of(error)
    return ""


def read_meta(checkpoint: Path) -> Meta:
    """Read ``meta.json`` of a checkpoint folder.

    Raises
    ------
    UserError
        If it cannot be read, or is damaged.
    """
    path = checkpoint / "meta.json"
    return read_record(Meta, read_json(path), str(path), ignore_unknown=True)


def load_checkpoint(
    checkpoint: Path,
) -> tuple[dict[str, torch.Tensor], dict[str, Any], Meta]:
    """Read a checkpoint folder onto the CPU: model, trainer and meta. No code is run.

    Raises
    ------
    ValueError
        If the folder is not a complete checkpoint.
    """
    _refuse(checkpoint, fault_of(checkpoint))
    model = load_weights(checkpoint / "model.safetensors")
    return model, read_torch(checkpoint / "trainer.pt"), read_meta(checkpoint)


def load_model(checkpoint: Path) -> tuple[dict[str, torch.Tensor], Meta]:
    """Read the weights and meta of a checkpoint folder, whose ``trainer.pt`` may be missing.

    Raises
    ------
    ValueError
        If the weights are not those that ``meta.json`` names.
    """
    _refuse(checkpoint, fault_of(checkpoint, ["model.safetensors"]))
    return load_weights(checkpoint / "model.safetensors"), read_meta(checkpoint)


def _refuse(checkpoint: Path, fault: str) -> None:
    if fault:
        raise UserError(
            f"{checkpoint}: not a complete checkpoint ({fault}); give another one, or --resume auto "
            "for the last complete one"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
