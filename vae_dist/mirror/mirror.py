"""The copy of a run in an object store, kept while it trains.

The trainer writes to a folder on this machine, as ever; a thread of the main process makes the store
like the folder. A checkpoint's ``meta.json`` is written after its other parts, and the index that
calls it `last` after the logs up to its step, so a copy exists whole or not at all. Training never
waits. Where checkpoints come faster than they can be copied, the newest goes first; one that the
run has removed by the time its turn comes is never copied.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.files import write_json
from data_pipeline.remote.transfer import Patience
from vae_dist.mirror.config import MirrorConfig
from vae_dist.mirror.copying import FILES, Copier
from vae_dist.mirror.fetch import META, PARTS, bring_checkpoints, bring_logs
from vae_dist.mirror.index import NAME as INDEX
from vae_dist.mirror.index import Index, read_index, step_of, write_index
from vae_dist.mirror.lock import NAME as LOCK
from vae_dist.mirror.lock import StoreLock
from vae_dist.mirror.session import SESSION, forget, read_session
from vae_dist.mirror.store import ONCE, Store, asked
from vae_dist.run.checkpoint import CheckpointConfig
from vae_dist.run.which_checkpoint import list_checkpoints

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
        self.folder, self.config, self._tell = folder, config, tell
        self.store, self._asking = Store(address, ONCE), Store(address, Patience())
        self.lock = StoreLock(self._asking, tell)
        self.copier = Copier(folder, keep, self.lock.check)
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
            with asked():
                self.copier.index = read_index(self._asking) or Index()
        except BaseException:
            self.lock.release()
            raise
        return bool(self.copier.index.checkpoints)

    def bring(self, also: str) -> None:
        """Make the folder hold what the run in the store goes on from.

        Parameters
        ----------
        also : str
            Name of a checkpoint that is wanted beside last and best; may be empty.
        """
        index = self.copier.index
        names = [also] if also in index.checkpoints else []
        with asked():
            if index.session and index.session == read_session(self.folder):
                # This machine wrote last: what it could not copy then.
                self.copier.copy_checkpoints(self._asking)
                return
            if not index.checkpoints:
                return
            if list_checkpoints(self.folder / "checkpoints"):
                self._tell(
                    f"{self.store}: another machine went on with this run; what is here of before, "
                    f"in {self.folder}, is replaced"
                )
            forget(self.folder)
            self._tell(f"{self.store}: fetching into {self.folder}")
            bring_logs(self._asking, self.folder, self._asking.names())
            bring_checkpoints(self._asking, self.folder, index, self._tell, names)
            write_json(self.folder / SESSION, {"session": index.session})

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
        with asked():
            names = self._asking.names()
            former = list(self.copier.index.checkpoints)
            beyond = [n for n in former if step_of(n) > step] if own else []
            self.copier.index = self.copier.index.without(beyond if own else former)
            self.copier.index.session = self.lock.id
            write_index(self._asking, self.copier.index)
            write_json(self.folder / SESSION, {"session": self.lock.id})
            place = _free(names, f"abandoned-after-step-{step:08d}")
            for name in beyond:
                for part in (META, *PARTS):
                    here = f"checkpoints/{name}/{part}"
                    self._asking.move(here, f"{place}/{here}")
            kept = {
                f"checkpoints/{n}/{part}" for n in self.copier.index.checkpoints for part in FILES
            }
            kept |= {f"checkpoints/{n}/{part}" for n in beyond for part in FILES}
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
                self.copier.copy_checkpoints(self.store)
                due = time.monotonic() - sent >= self.config.mirror_every
                if due or ending:
                    self.copier.copy_logs(self.store)
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

    # -- after it ------------------------------------------------------------------------------

    def finish(self, seconds: float) -> bool:
        """Wait a while for what is not copied yet; whether there is nothing more to wait for."""
        if self._thread is None or self._done.is_set():
            return True
        if not self._ending.is_set():
            if missing := self.copier.missing():
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
                what = self.copier.missing() or "the last lines of the logs"
                missing = (
                    f"{self.store}: {what} not copied there ({self._fault or 'stopped before'}); it is "
                    f"whole in {self.folder}: the same command with --resume auto on this machine "
                    "copies it"
                )
            self._thread = None
        self.lock.release()
        return missing


def _free(names: list[str], place: str) -> str:
    taken, number, found = {name.split("/")[0] for name in names}, 2, place
    while found in taken:
        found, number = f"{place}-{number}", number + 1
    return found
