"""From an object store to this machine: whole, checked, once for all processes of it."""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.files import write_whole
from data_pipeline.records import parse_json
from data_pipeline.remote.reading import is_remote
from data_pipeline.remote.transfer import Patience, TransferError, sha256_of
from vae_dist.mirror import index as index_file
from vae_dist.mirror import lock as lock_file
from vae_dist.mirror.index import Index, read_index
from vae_dist.mirror.places import copy_place, split_address
from vae_dist.mirror.store import Store

PARTS = ("model.safetensors", "trainer.pt")
META = "meta.json"
APART = ("checkpoints/", "abandoned-")
FILES = (".pth.tar", ".pth", ".pt", ".safetensors")


def say(line: str) -> None:
    """Tell the user on stderr: stdout may be a program's."""
    print(line, file=sys.stderr, flush=True)


def local_copy(run: str | Path, *, logs_only: bool = False) -> Path:
    """A run as a path: itself, or where its address was fetched to.

    Parameters
    ----------
    run : str or Path
        A path is given back as it is. An address may be of a run, of its ``checkpoints``, of one
        checkpoint or of a file of weights.
    logs_only : bool
        Fetch no checkpoints.

    Returns
    -------
    Path
        In the user's cache folder (``~/.cache/vae-dist/copies`` on Linux). What is there and has
        the right sums is not fetched again.

    Raises
    ------
    UserError
        If there is no run, no whole checkpoint, or the store does not answer.
    """
    if not is_remote(str(run)):
        return Path(run)
    address, within = split_address(str(run))
    folder = copy_place(address)
    store = Store(address, Patience())
    try:
        with files_of_user(f"{folder}: cannot be written", "set XDG_CACHE_HOME to another folder"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.parent / f".{folder.name}.lock"):
                if address.endswith(FILES):
                    store = Store(address.rpartition("/")[0], Patience())
                    store.fetch(address.rpartition("/")[2], folder)
                else:
                    _fetch_run(store, folder, within.removeprefix("checkpoints/"), logs_only)
    except TransferError as error:
        raise UserError(str(error)) from error
    return folder / within


def _fetch_run(store: Store, folder: Path, within: str, logs_only: bool) -> None:
    found = read_index(store)
    names = store.names()
    if not names:
        raise UserError(f"{store}: no such run")
    if found is None:  # a run folder that was copied there, or an export
        wanted = [n for n in names if not (logs_only and n.startswith(APART))]
        for name in wanted:
            bring_file(store, folder, name)
        return
    bring_logs(store, folder, names)
    if logs_only:
        return
    if within.startswith("step-"):
        if fault := bring_checkpoint(store, folder, within):
            raise UserError(f"{store}/checkpoints/{within}: {fault}")
        return
    if not found.checkpoints:
        raise UserError(f"{store}: holds no complete checkpoint yet")
    bring_checkpoints(store, folder, found, say)


def bring_checkpoints(
    store: Store, folder: Path, index: Index, tell: Callable[[str], None], also: Sequence[str] = ()
) -> None:
    """Fetch the last whole checkpoint, the best one and those named, and link them.

    Raises
    ------
    UserError
        If there are checkpoints, and none is whole.
    """
    from vae_dist.run.checkpoint import checkpoint_path, link

    checkpoints, passed = folder / "checkpoints", []
    for name in index.newest_first(index.last):
        if not (fault := bring_checkpoint(store, folder, name)):
            break
        passed.append(f"{name} ({fault})")
        tell(f"warning: {store}: {passed[-1]} cannot be used; the one before is taken")
    else:
        if index.checkpoints:
            raise UserError(f"{store}: no checkpoint there is whole: {', '.join(passed)}")
    for wanted in dict.fromkeys((index.best, *also)):
        if wanted is not None and (fault := bring_checkpoint(store, folder, wanted)):
            tell(f"warning: {store}: {wanted} cannot be used ({fault})")
    for word, target in (("last", index.last), ("best", index.best)):
        if target is not None:
            link(checkpoints, word, checkpoint_path(checkpoints, index_file.step_of(target)))


def bring_checkpoint(store: Store, folder: Path, name: str) -> str:
    """Fetch a checkpoint, unless it is here and has the sums of its ``meta.json``.

    Returns
    -------
    str
        Why it is not whole; or empty.
    """
    there, target = f"checkpoints/{name}", folder / "checkpoints" / name
    meta = store.read(f"{there}/{META}")
    if meta is None:
        return "not there, or not whole"
    try:
        sums = {part: str(parse_json(meta, META)["sha256"][part]) for part in PARTS}
    except (UserError, KeyError, TypeError):
        return f"{META} is damaged"
    if (target / META).is_file() and (target / META).read_bytes() == meta and _whole(target, sums):
        return ""
    partial = target.with_name(f".writing-{name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for part, wanted in sums.items():
        for _ in range(2):  # a transfer may be at fault: once more
            try:
                store.fetch(f"{there}/{part}", partial / part)
            except TransferError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    return f"{part} is missing"
                raise
            if sha256_of(partial / part) == wanted:
                break
        else:
            return f"{part} has another SHA-256"
    write_whole(partial / META, meta)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    return ""


def _whole(folder: Path, sums: dict[str, str]) -> bool:
    try:
        return all(sha256_of(folder / part) == wanted for part, wanted in sums.items())
    except OSError:
        return False


def bring_logs(store: Store, folder: Path, names: Sequence[str]) -> None:
    """Fetch what is beside the checkpoints: settings, records, telemetry, TensorBoard."""
    ours = (index_file.NAME, lock_file.NAME)
    for name in names:
        if not name.startswith(APART) and name not in ours:
            bring_file(store, folder, name)


def bring_file(store: Store, folder: Path, name: str) -> None:
    """Fetch one file; it appears whole. One that has gone meanwhile is passed over."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    try:
        store.fetch(name, partial)
    except TransferError as error:
        if not isinstance(error.__cause__, FileNotFoundError):
            raise
    else:
        partial.replace(target)


def sha256(content: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()
