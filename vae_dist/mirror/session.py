"""Which training wrote a run folder last, on this machine and on others that read its copy."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.files import write_json
from data_pipeline.records import parse_json
from data_pipeline.remote.transfer import Patience
from vae_dist.mirror.fetch import bring_checkpoints, say
from vae_dist.mirror.index import Index, read_index
from vae_dist.mirror.store import Store, asked

SESSION = ".mirror.json"
"""File in the run folder: which training wrote it last, as the index in the store says it too."""


def follow(address: str, folder: Path, also: str) -> None:
    """What `Mirror.bring` does, for the processes of other machines than the main one.

    Raises
    ------
    UserError
        If the store does not answer, or no checkpoint is whole.
    """
    store = Store(address, Patience())
    with asked(), files_of_user(f"{folder}: cannot be written", "see --runs-cache"):
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.parent / f".{folder.name}.lock"):
            index = read_index(store) or Index()
            if not index.checkpoints or index.session == read_session(folder):
                return  # the main process is of this machine, or another one has fetched it
            forget(folder)
            names = [also] if also in index.checkpoints else []
            bring_checkpoints(store, folder, index, say, names)
            write_json(folder / SESSION, {"session": index.session})


def read_session(folder: Path) -> str:
    """Which training wrote a run folder last; empty if none of an address did."""
    try:
        return str(parse_json((folder / SESSION).read_bytes(), SESSION)["session"])
    except (OSError, UserError, KeyError, TypeError):
        return ""


def forget(folder: Path) -> None:
    """Remove a run's files from this machine, which the store has better; not its lock."""
    for path in folder.glob("*"):
        if path.name != "lock.json":
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (folder / SESSION).unlink(missing_ok=True)
