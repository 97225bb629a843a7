"""The checkpoints of a run's folder: which there are, which is the last, the best, or to be removed."""

from __future__ import annotations

import shutil
from pathlib import Path

from data_pipeline.errors import UserError
from vae_dist.run.checkpoint import (
    REPLACED,
    CheckpointConfig,
    checkpoint_path,
    fault_of,
    read_meta,
)


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
    for old in folder.glob(f"{REPLACED}*"):
        target = folder / old.name.removeprefix(REPLACED)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(target)


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
