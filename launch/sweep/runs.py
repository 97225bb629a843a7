"""What the runs of a sweep say of themselves: read from their folders, here or in an object store."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.remote.reading import is_remote, join


def status_of(runs_dir: str | Path, run: str) -> dict[str, Any]:
    """``status.json`` of a run; empty where there is none yet.

    Raises
    ------
    UserError
        If the store of an address does not answer.
    """
    return _parsed(_read(runs_dir, f"{run}/status.json"))


def best_of(runs_dir: str | Path, run: str) -> dict[str, Any]:
    """The validation record of a run's checkpoint ``best``; empty where there is none yet."""
    if is_remote(str(runs_dir)):
        name = _parsed(_read(runs_dir, f"{run}/mirror.json")).get("best")
        step = int(str(name).removeprefix("step-")) if name else None
    else:
        step = _parsed(_read(runs_dir, f"{run}/checkpoints/best/meta.json")).get("step")
    lines = _read(runs_dir, f"{run}/metrics.jsonl").splitlines() if step is not None else []
    records = map(_parsed, lines)  # a line that a kill cut short is none
    found = [r for r in records if r.get("split") == "val" and r.get("step") == step]
    return found[-1] if found else {}


def write_beside(runs_dir: str | Path, name: str, content: bytes) -> None:
    """Write a small file next to the runs; it appears whole.

    Raises
    ------
    UserError
        If the folder, or the store of an address, does not take it.
    """
    if is_remote(str(runs_dir)):
        with _store_of_user():
            _store(runs_dir).write(name, content)
        return
    from data_pipeline.files import write_whole

    with files_of_user(f"--runs-dir {runs_dir}: cannot be written"):
        Path(runs_dir).mkdir(parents=True, exist_ok=True)
        write_whole(Path(runs_dir) / name, content)


def place_of(runs_dir: str | Path, name: str) -> str:
    """Path or address of what lies in the folder of the runs."""
    return join(str(runs_dir), name) if is_remote(str(runs_dir)) else str(Path(runs_dir) / name)


def _read(runs_dir: str | Path, name: str) -> bytes:
    if is_remote(str(runs_dir)):
        with _store_of_user():
            return _store(runs_dir).read(name) or b""
    try:
        return (Path(runs_dir) / name).read_bytes()
    except OSError:
        return b""


@contextmanager
def _store_of_user() -> Iterator[None]:
    from data_pipeline.remote.transfer import TransferError

    try:
        yield
    except TransferError as error:
        raise UserError(f"--runs-dir: {error}; Fix: see docs/remote.md") from error


def _store(runs_dir: str | Path) -> Any:
    from data_pipeline.remote.transfer import Patience
    from vae_dist.mirror.store import Store

    return Store(str(runs_dir), Patience())


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
