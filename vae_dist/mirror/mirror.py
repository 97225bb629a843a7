"""The copy of a run in an object store, kept while it trains.

The trainer writes to a folder on this machine, as ever; a thread of the main process makes the store
like the folder. A checkpoint's ``meta.json`` is written after its other parts, and the index that
calls it `last` after the logs up to its step, so a copy exists whole or not at all. Training never
waits. Where checkpoints come faster than they can be copied, the newest goes first; one that the
run has removed by the time its turn comes is never copied.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.files import write_json
from data_pipeline.records import parse_json
from data_pipeline.remote.transfer import Patience, TransferError
from vae_dist.mirror.config import MirrorConfig
from vae_dist.mirror.fetch import META, PARTS, bring_checkpoints, bring_logs, sha256
from vae_dist.mirror.index import NAME as INDEX
from vae_dist.mirror.index import Index, read_index, step_of, write_index
from vae_dist.mirror.lock import NAME as LOCK
from vae_dist.mirror.lock import StoreLock
from vae_dist.mirror.store import ONCE, Store
from vae_dist.run.checkpoint import (
    CheckpointConfig,
    checkpoint_path,
    linked,
    list_checkpoints,
    read_meta,
)

SESSION = ".mirror.json"
"""File in the run folder: which training wrote it last, as the index in the store says it too."""
LONGEST_PAUSE = 60.0


class Mirror:
    """Keeps the copy of one run.

    Parameters
    ----------
    address : str
        Of the run, in the store.
    folder : Path
        The run folder on this machine.
    config : MirrorConfig
    keep : CheckpointConfig
        Which checkpoints are kept, there as here.
    tell : callable
        Given each line for the user.
    """

    def __init__(
        self,
        address: str,
        folder: Path,
        config: MirrorConfig,
        keep: CheckpointConfig,
        tell: Callable[[str], None],
    ) -> None:
        self.folder, self.config, self.keep, self._tell = folder, config, keep, tell
        self.store, self._asking = Store(address, ONCE), Store(address, Patience())
        self.lock = StoreLock(self._asking, tell)
        self.index = Index()
        self._sent_logs: dict[str, tuple[int, int]] = {}
        self._wake, self._ending = threading.Event(), threading.Event()
        self._done = threading.Event()
        self._thread: threading.Thread | None = None
        self._fault, self._failing_since, self._warned = "", 0.0, False

    # -- before the training -------------------------------------------------------------------

    def take(self) -> bool:
        """Take the run's lock in the store; whether a run is there already.

        Raises
        ------
        UserError
            If another training holds it, or the store cannot be used.
        """
        self.lock.acquire()
        try:
            with _asked():
                self.index = read_index(self._asking) or Index()
        except BaseException:
            self.lock.release()
            raise
        return bool(self.index.checkpoints)

    def bring(self, also: str) -> None:
        """Make the folder hold what the run in the store goes on from.

        Parameters
        ----------
        also : str
            Name of a checkpoint that is wanted beside last and best; may be empty.
        """
        names = [also] if also in self.index.checkpoints else []
        with _asked():
            if self.index.session and self.index.session == read_session(self.folder):
                self._copy_checkpoints(
                    self._asking
                )  # this machine wrote last: what it could not copy then
                return
            if not self.index.checkpoints:
                return
            if list_checkpoints(self.folder / "checkpoints"):
                self._tell(
                    f"{self.store}: another machine went on with this run; what is here of before, "
                    f"in {self.folder}, is replaced"
                )
            forget(self.folder)
            self._tell(f"{self.store}: fetching into {self.folder}")
            bring_logs(self._asking, self.folder, self._asking.names())
            bring_checkpoints(self._asking, self.folder, self.index, self._tell, names)
            write_json(self.folder / SESSION, {"session": self.index.session})

    def begin(self, step: int, *, own: bool) -> None:
        """Make the store agree with where the run starts, as `RunFolder.begin` the folder.

        Parameters
        ----------
        step : int
            Where it starts or goes on: checkpoints beyond are moved to ``abandoned-…``.
        own : bool
            It goes on with what is there; otherwise that is removed.
        """
        for leftover in self.folder.glob(".copying-*"):  # of a killed training
            shutil.rmtree(leftover, ignore_errors=True)
        with _asked():
            names = self._asking.names()
            former = list(self.index.checkpoints)
            beyond = [n for n in former if step_of(n) > step] if own else []
            self.index = self.index.without(beyond if own else former)
            self.index.session = self.lock.id
            write_index(self._asking, self.index)
            write_json(self.folder / SESSION, {"session": self.lock.id})
            place = _free(names, f"abandoned-after-step-{step:08d}")
            for name in beyond:
                for part in (META, *PARTS):
                    here = f"checkpoints/{name}/{part}"
                    self._asking.move(here, f"{place}/{here}")
            kept = {f"checkpoints/{n}/{part}" for n in self.index.checkpoints for part in _FILES}
            kept |= {f"checkpoints/{n}/{part}" for n in beyond for part in _FILES}
            unknown = [n for n in names if n.startswith("checkpoints/") and n not in kept]
            if not own:
                unknown = [n for n in names if n not in (LOCK, INDEX)]
            # First what makes a checkpoint valid.
            self._asking.remove(sorted(unknown, key=lambda name: not name.endswith(META)))
        self._thread = threading.Thread(target=self._run, daemon=True, name="mirror")
        self._thread.start()

    # -- while it trains -----------------------------------------------------------------------

    def check(self) -> None:
        """Fail if another training has taken this run over."""
        self.lock.check()

    def committed(self) -> None:
        """A checkpoint is complete in the folder; returns at once."""
        self._wake.set()

    def _run(self) -> None:
        pause, sent = 1.0, time.monotonic()
        while True:
            self._wake.wait(self.config.mirror_every)
            self._wake.clear()
            ending = self._ending.is_set()  # asked before: the folder changes no more from then on
            try:
                self.lock.check()
                self._copy_checkpoints(self.store)
                due = time.monotonic() - sent >= self.config.mirror_every
                if due or ending:
                    self._copy_logs(self.store)
                    sent = time.monotonic()
            except UserError as error:  # taken over: the trainer stops at its next write
                self._fault = str(error)
                break
            except Exception as error:
                self._failed(error)
                self._ending.wait(pause) if not ending else time.sleep(min(pause, 5.0))
                pause = min(2 * pause, LONGEST_PAUSE)
                self._wake.set()  # try again
                continue
            if self._fault:
                self._tell(f"{self.store}: answers again; all is copied")
            pause, self._fault = 1.0, ""
            if ending:
                break
        self._done.set()

    def _failed(self, error: Exception) -> None:
        if not self._fault:
            self._failing_since = time.monotonic()
        self._fault = " ".join(f"{error}".split()) or type(error).__name__
        if not isinstance(error, OSError):
            self._fault = f"{type(error).__name__}: {self._fault}"
        if not self._warned:
            self._warned = True
            self._tell(
                f"warning: not copied to {self.store} ({self._fault}); the training goes on, and "
                "copying is tried again with growing pauses"
            )

    def _copy_checkpoints(self, store: Store) -> None:
        """Copy what the store lacks, newest first, until there is nothing more."""
        while (checkpoint := self._next()) is not None:
            self._copy_checkpoint(store, checkpoint)
        self._publish(store, self.index)

    def _next(self) -> Path | None:
        """What to copy next: the newest that the store lacks, then the best, then the others."""
        checkpoints = self.folder / "checkpoints"
        here, best = list_checkpoints(checkpoints)[::-1], linked(checkpoints, "best")
        for checkpoint in here[:1] + sorted(here[1:], key=lambda path: path != best):
            meta = _read(checkpoint / META)
            if meta and self.index.checkpoints.get(checkpoint.name) != sha256(meta):
                return checkpoint
        return None

    def _copy_checkpoint(self, store: Store, checkpoint: Path) -> None:
        """Copy one, from links of its own: the run may remove it meanwhile."""
        beside = self.folder / f".copying-{checkpoint.name}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        try:
            try:
                for part in _FILES:
                    _hold(checkpoint / part, beside / part)
            except FileNotFoundError:  # removed by the run
                return
            meta = (beside / META).read_bytes()
            there = f"checkpoints/{checkpoint.name}"
            if checkpoint.name in self.index.checkpoints:  # the same step again, another content
                self._publish(store, self.index.without([checkpoint.name]))
                store.remove([f"{there}/{META}"])
            for part in PARTS:
                store.put(beside / part, f"{there}/{part}")
            store.put(beside / META, f"{there}/{META}")
            self._copy_logs(store)  # up to this step at least
            self.lock.check()
            new = dataclasses.replace(
                self.index,
                checkpoints=self.index.checkpoints | {checkpoint.name: sha256(meta)},
                epochs=self.index.epochs | {checkpoint.name: read_meta(beside).epoch},
            )
            self._publish(store, new)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _publish(self, store: Store, index: Index) -> None:
        """Write the index, with the run's own best, and remove what is no longer kept."""
        best = linked(self.folder / "checkpoints", "best")
        named = best.name if best is not None and best.name in index.checkpoints else index.best
        last = max(index.checkpoints, key=step_of, default=None)
        index = dataclasses.replace(index, last=last, best=named)
        gone = [name for name in index.checkpoints if not self._kept(index, name)]
        index = dataclasses.replace(
            index,
            checkpoints={n: v for n, v in index.checkpoints.items() if n not in gone},
            epochs={n: v for n, v in index.epochs.items() if n not in gone},
        )
        if index == self.index:
            return
        write_index(store, index)
        self.index = index
        for name in gone:
            store.remove(f"checkpoints/{name}/{part}" for part in (META, *PARTS))

    def _kept(self, index: Index, name: str) -> bool:
        if name in (index.last, index.best, *index.newest_first()[: self.keep.keep_last]):
            return True
        if (checkpoint_path(self.folder / "checkpoints", step_of(name)) / META).is_file():
            return True
        every, epoch = self.keep.keep_every_epochs, index.epochs.get(name, 0.0)
        return bool(every) and epoch > 0 and epoch % every == 0

    def _copy_logs(self, store: Store) -> None:
        """Copy the files beside the checkpoints that have changed."""
        for path in self._logs():
            name = path.relative_to(self.folder).as_posix()
            try:
                status = path.stat()
                seen = status.st_size, status.st_mtime_ns
                if self._sent_logs.get(name) != seen:
                    store.put(path, name)
                    self._sent_logs[name] = seen
            except FileNotFoundError:  # exchanged for a new one this moment
                if path.exists():
                    raise

    def _logs(self) -> Iterator[Path]:
        for path in sorted(self.folder.rglob("*")):
            parts = path.relative_to(self.folder).parts
            apart = parts[0] in ("checkpoints", LOCK) or parts[0].startswith("abandoned-")
            if not apart and not any(part.startswith(".") for part in parts) and path.is_file():
                yield path

    # -- after it ------------------------------------------------------------------------------

    def finish(self, seconds: float) -> bool:
        """Wait a while for what is not copied yet; whether there is nothing more to wait for."""
        if self._thread is None or self._done.is_set():
            return True
        if not self._ending.is_set():
            if missing := self._missing():
                self._tell(f"copying to {self.store}: {missing}")
            self._ending.set()
            self._wake.set()
        self._done.wait(seconds)
        waited = time.monotonic() - self._failing_since if self._fault else 0.0
        return self._done.is_set() or waited > self.config.mirror_wait

    def close(self) -> str:
        """Let go of the run; what is not in the store, as one line, or empty."""
        self._ending.set()
        self._wake.set()
        missing = ""
        if self._thread is not None:
            if self._done.is_set() and not self._fault:
                self._tell(f"copied to {self.store}")
            else:
                what = self._missing() or "the last lines of the logs"
                missing = (
                    f"{self.store}: {what} not copied there ({self._fault or 'stopped before'}); it is "
                    f"whole in {self.folder}: the same command with --resume auto on this machine "
                    "copies it"
                )
            self._thread = None
        self.lock.release()
        return missing

    def _missing(self) -> str:
        checkpoint = self._next()
        return f"checkpoint {checkpoint.name}" if checkpoint is not None else ""


_FILES = (*PARTS, META)


def follow(address: str, folder: Path, also: str) -> None:
    """What `Mirror.bring` does, for the processes of other machines than the main one.

    Raises
    ------
    UserError
        If the store does not answer, or no checkpoint is whole.
    """
    from filelock import FileLock

    from vae_dist.mirror.fetch import say

    store = Store(address, Patience())
    with _asked(), files_of_user(f"{folder}: cannot be written", "see --runs-cache"):
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


def _hold(path: Path, link: Path) -> None:
    try:
        os.link(path, link)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _free(names: list[str], place: str) -> str:
    taken, number, found = {name.split("/")[0] for name in names}, 2, place
    while found in taken:
        found, number = f"{place}-{number}", number + 1
    return found


@contextlib.contextmanager
def _asked() -> Iterator[None]:
    """What the store refuses before the training begins is the user's to see to."""
    try:
        yield
    except TransferError as error:
        raise UserError(f"--runs-dir: {error}; Fix: see docs/remote.md") from error
