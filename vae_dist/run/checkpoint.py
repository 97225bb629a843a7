"""Checkpoints that exist whole or not at all.

A checkpoint is a folder ``step-NNNNNNNN`` of ``model.safetensors``, ``trainer.pt`` and, written
last, ``meta.json``. It is written under another name, flushed to the disk and renamed, so a
kill or a full disk at any moment leaves the former checkpoints as they were.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from data_pipeline.errors import UserError

SCHEMA = 1


@dataclasses.dataclass(kw_only=True)
class CheckpointConfig:
    """Checkpoints: when they are written and which are kept."""

    checkpoint_every: int = 0
    """Write one every so many steps; 0: at the end of each epoch only."""
    keep_last: int = 2
    """Keep so many of the newest (best is kept beside them)."""
    keep_every_epochs: int = 0
    """Also keep the checkpoint of every so many epochs; 0: none."""
    best_by: str = "loss"
    """The validation figure that chooses the best checkpoint: loss, elbo or ssim."""

    def __post_init__(self) -> None:
        if self.checkpoint_every < 0:
            raise UserError(f"--checkpoint-every {self.checkpoint_every}: must be 0 or more")
        if self.keep_last < 1:
            raise UserError(f"--keep-last {self.keep_last}: must be 1 or more")
        if self.keep_every_epochs < 0:
            raise UserError(f"--keep-every-epochs {self.keep_every_epochs}: must be 0 or more")
        if self.best_by not in ("loss", "elbo", "ssim"):
            raise UserError(f"--best-by {self.best_by}: expected loss, elbo or ssim")


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never a part."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", encoding="utf-8") as file:
        json.dump(content, file, indent=1)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


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
        hashes = {name: _sha256(beside / name) for name in ("model.safetensors", "trainer.pt")}
        for name in hashes:
            _flush(beside / name)
        write_json(beside / "meta.json", {"schema": SCHEMA, **meta, "sha256": hashes})
        _flush(beside)
        if target.exists():  # the same step again, as after a resume: replace it
            shutil.rmtree(target)
        beside.rename(target)
        _flush(folder)
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


def is_complete(checkpoint: Path) -> bool:
    """Whether a checkpoint folder holds what its ``meta.json`` says, byte for byte."""
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError):
        hashes = read_meta(checkpoint)["sha256"]
        return bool(hashes) and all(_sha256(checkpoint / n) == h for n, h in hashes.items())
    return False


def read_meta(checkpoint: Path) -> dict[str, Any]:
    """Read ``meta.json`` of a checkpoint folder."""
    return json.loads((checkpoint / "meta.json").read_text(encoding="utf-8"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first; unfinished ones do not count."""
    return sorted(p for p in folder.glob("step-*") if (p / "meta.json").is_file())


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a ``checkpoints`` folder, or None."""
    for checkpoint in reversed(list_checkpoints(folder)):
        if is_complete(checkpoint):
            return checkpoint
    return None


def prune(folder: Path, config: CheckpointConfig) -> None:
    """Remove what `config` does not keep, and leftovers of writes that were killed."""
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    checkpoints = list_checkpoints(folder)
    kept = set(checkpoints[-config.keep_last :])
    for name in ("best", "last"):
        if (folder / name).exists():
            kept.add(folder / (folder / name).readlink())
    for checkpoint in checkpoints:
        epoch = read_meta(checkpoint).get("epoch", 0.0)
        every = config.keep_every_epochs
        if checkpoint in kept or (every and epoch > 0 and epoch % every == 0):
            continue
        # meta.json goes first, so that a kill in here leaves nothing that looks complete.
        (checkpoint / "meta.json").unlink()
        shutil.rmtree(checkpoint)


def resolve_checkpoint(path: Path, which: str = "best") -> Path:
    """The checkpoint folder that a path names.

    Parameters
    ----------
    path : Path
        A run folder, its ``checkpoints`` folder, or a checkpoint folder itself.
    which : str
        ``"best"`` or ``"last"``: which of a run's checkpoints; where there is no best yet, last.

    Raises
    ------
    ValueError
        If there is none.
    """
    if (path / "meta.json").is_file():
        return path
    folder = path / "checkpoints" if (path / "checkpoints").is_dir() else path
    for name in (which, "last"):
        if (folder / name / "meta.json").is_file():
            return folder / (folder / name).readlink()
    newest = newest_checkpoint(folder) if folder.is_dir() else None
    if newest is None:
        raise UserError(f"{path}: holds no complete checkpoint; give a run or checkpoint folder")
    return newest


def load_checkpoint(
    checkpoint: Path,
) -> tuple[dict[str, torch.Tensor], dict[str, Any], dict[str, Any]]:
    """Read a checkpoint folder onto the CPU: model, trainer and meta. No code is run.

    Raises
    ------
    ValueError
        If the folder is not a complete checkpoint.
    """
    if not is_complete(checkpoint):
        raise UserError(
            f"{checkpoint}: not a complete checkpoint (meta.json is missing or a hash differs); "
            "give another one, or --resume auto for the newest complete one"
        )
    model = load_file(checkpoint / "model.safetensors")
    trainer = torch.load(checkpoint / "trainer.pt", map_location="cpu", weights_only=True)
    return model, trainer, read_meta(checkpoint)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
