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
import warnings
import zipfile
from pathlib import Path
from typing import Annotated, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from data_pipeline.checks import AtLeast, OneOf, check_fields
from data_pipeline.errors import UserError, files_of_user, reason_of
from data_pipeline.files import sync, write_json
from data_pipeline.records import read_json, read_record

SCHEMA = 1
FILES = ("model.safetensors", "trainer.pt")
_REPLACED = ".replaced-"


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
        old = folder / f"{_REPLACED}{target.name}"
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


def linked(folder: Path, name: str) -> Path | None:
    """The checkpoint that ``best`` or ``last`` names, whether it is there or not.

    A copy of the run may hold a folder in place of the link.
    """
    place = folder / name
    if place.is_symlink():
        return folder / place.readlink().name
    if (place / "meta.json").is_file():
        return checkpoint_path(folder, read_meta(place).step)
    return None


def recover(folder: Path) -> None:
    """Put back the checkpoint that a kill left half replaced."""
    for old in folder.glob(f"{_REPLACED}*"):
        target = folder / old.name.removeprefix(_REPLACED)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


def fault_of(checkpoint: Path) -> str:
    """Why a checkpoint folder is not what its ``meta.json`` says, byte for byte; or empty."""
    try:
        for name, wanted in read_meta(checkpoint).sha256.items():
            if _sha256(checkpoint / name) != wanted:
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


def step_of(checkpoint: Path) -> int:
    """The step that a checkpoint folder's name says."""
    return int(checkpoint.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoint folders by step, oldest first; unfinished ones do not count."""
    found = [p for p in folder.glob("step-*") if p.name.removeprefix("step-").isdecimal()]
    return sorted((p for p in found if (p / "meta.json").is_file()), key=step_of)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint of a ``checkpoints`` folder, or None."""
    for checkpoint in reversed(list_checkpoints(folder)):
        if not fault_of(checkpoint):
            return checkpoint
    return None


def own_checkpoint(folder: Path) -> tuple[Path | None, str]:
    """Where a run stands: at what ``last`` names, not at the highest step.

    Returns
    -------
    checkpoint : Path or None
        None where there is none yet. If the one that ``last`` names is damaged, the complete one
        before it.
    note : str
        What has to be said of those that were passed over; or empty.

    Raises
    ------
    UserError
        If there are checkpoints and none can be used.
    """
    checkpoints, last = list_checkpoints(folder), linked(folder, "last")
    passed = []
    if last is not None and last not in checkpoints:
        passed.append(f"{last.name} is missing")
    for checkpoint in reversed(checkpoints):
        if last is not None and step_of(checkpoint) > step_of(last):
            continue  # of a way that was abandoned, or written by a run that was killed before it
        if not (fault := fault_of(checkpoint)):
            return checkpoint, ", ".join(passed)
        passed.append(f"{checkpoint.name} is damaged ({fault})")
    if not checkpoints:
        return None, ""
    raise UserError(
        f"{folder}: {', '.join(passed)}, and no complete checkpoint comes before; name one by "
        "--resume PATH, or start over by --overwrite True without --resume"
    )


def prune(folder: Path, config: CheckpointConfig) -> None:
    """Remove what `config` does not keep, and leftovers of writes that were killed."""
    for leftover in folder.glob(".writing-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    checkpoints = list_checkpoints(folder)
    kept: set[Path | None] = set(checkpoints[-config.keep_last :])
    kept |= {linked(folder, "best"), linked(folder, "last")}
    every = config.keep_every_epochs
    for checkpoint in checkpoints:
        if checkpoint in kept:
            continue
        if every and (epoch := read_meta(checkpoint).epoch) > 0 and epoch % every == 0:
            continue
        remove(checkpoint)


def remove(checkpoint: Path) -> None:
    """Remove a checkpoint; a kill in here leaves nothing that looks complete."""
    (checkpoint / "meta.json").unlink(missing_ok=True)
    shutil.rmtree(checkpoint, ignore_errors=True)


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
        named = linked(folder, name)
        if named is not None and (named / "meta.json").is_file():
            return named
    newest = newest_checkpoint(folder) if folder.is_dir() else None
    if newest is None:
        raise UserError(f"{path}: holds no complete checkpoint; give a run or checkpoint folder")
    return newest


def load_checkpoint(
    checkpoint: Path,
) -> tuple[dict[str, torch.Tensor], dict[str, Any], Meta]:
    """Read a checkpoint folder onto the CPU: model, trainer and meta. No code is run.

    Raises
    ------
    ValueError
        If the folder is not a complete checkpoint.
    """
    if fault := fault_of(checkpoint):
        raise UserError(
            f"{checkpoint}: not a complete checkpoint ({fault}); give another one, or --resume auto "
            "for the last complete one"
        )
    model = load_weights(checkpoint / "model.safetensors")
    return model, read_torch(checkpoint / "trainer.pt"), read_meta(checkpoint)


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a ``.safetensors`` file by name, onto the CPU."""
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:200]})") from error


def read_torch(path: Path) -> dict[str, Any]:
    """What a file of ``torch.save`` holds, onto the CPU; no code of it is run.

    Zip files are checked by their CRC-32 first, which torch does not do. A file in torch's older
    format must end where its last tensor ends; a changed number within a tensor cannot be seen
    there.

    Raises
    ------
    UserError
        If it cannot be read, is damaged, or holds no dictionary with text keys.
    """
    with files_of_user(f"{path}: cannot be read"):
        content = io.BytesIO(path.read_bytes())
    try:
        in_zip = zipfile.is_zipfile(content)
        if in_zip:
            with zipfile.ZipFile(content) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("a compressed part")
                if (part := archive.testzip()) is not None:
                    raise ValueError(f"{part} has another CRC-32")
        content.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols; said of noise, too
            held = torch.load(content, map_location="cpu", weights_only=True)
        if not in_zip and content.tell() != content.getbuffer().nbytes:
            raise ValueError("bytes after its end")
    except MemoryError:
        raise
    except Exception as error:  # torch and pickle raise whatever a damaged file leads them to
        kind = str(error) if type(error) in (ValueError, zipfile.BadZipFile) else "torch refuses it"
        raise UserError(
            f"{path}: damaged, or not a file of torch.save with tensors and plain values only "
            f"({kind})"
        ) from error
    if not isinstance(held, dict) or not all(isinstance(key, str) for key in held):
        raise UserError(f"{path}: holds {type(held).__name__}, expected a dictionary with names")
    return held


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
