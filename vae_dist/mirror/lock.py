"""One training of a run at a time, as far as its object store allows.

`data_pipeline.lock` cannot be used there: a store has neither hard links nor times that can be set.
The lock is an object that names its owner and counts its beats. Where the store can write an object
only if it is not there (S3, Google Cloud Storage), one of several trainings gets it. Elsewhere the
lock is looked at again after it was written, and before each beat: of two trainings that began in
the same second one stops a beat later.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable

from data_pipeline.errors import UserError
from data_pipeline.lock import Owner, is_running, myself
from data_pipeline.records import parse_json, read_record
from data_pipeline.remote.opening import protocol_of
from data_pipeline.remote.transfer import TransferError
from vae_dist.mirror.store import ONCE, Store

NAME = "lock.json"
BEAT, STALE = 15.0, 60.0
SLOW = {"hf": 600.0}
"""Seconds between two beats where each write is a commit, and counts against a limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Held(Owner):
    """What the object says."""

    beat: int = 0


class StoreLock:
    """Held by one training at a time.

    Parameters
    ----------
    store : Store
    tell : callable
        Given a line where `acquire` waits to see whether an owner still lives.
    beat, stale : float
        Seconds between two signs of life, and without one until an owner counts as gone.

    Attributes
    ----------
    id : str
        Of this holder.
    """

    def __init__(
        self,
        store: Store,
        tell: Callable[[str], None] = lambda line: None,
        *,
        beat: float | None = None,
        stale: float | None = None,
    ) -> None:
        self._store, self._tell = store, tell
        self._beat = beat or SLOW.get(protocol_of(store.address), BEAT)
        self._stale = stale or max(STALE, 3 * self._beat)
        self._me = _Held(**dataclasses.asdict(myself()))
        self.id = self._me.id
        self._stop, self._lost = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None

    def acquire(self) -> None:
        """Take the lock, or fail where another training holds it.

        Raises
        ------
        UserError
            Names the owner; or the store cannot be written.
        """
        try:
            while True:
                if self._store.create(NAME, _content(self._me)):
                    held = self._read()
                    if held is not None and held.id == self.id:
                        break
                else:
                    self._clear()
        except TransferError as error:
            raise UserError(f"--runs-dir: {error}; Fix: see docs/remote.md") from error
        self._thread = threading.Thread(target=self._live, daemon=True, name="store lock")
        self._thread.start()

    def check(self) -> None:
        """Fail if another training has taken the lock meanwhile.

        Raises
        ------
        UserError
        """
        if self._lost.is_set():
            raise UserError(
                f"{self._store}: another training has taken this run over; this one stops before it "
                "writes anything more"
            )

    def release(self) -> None:
        """Let go; nothing happens where the lock is not held."""
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        with contextlib.suppress(TransferError):  # it goes stale instead
            held = self._once.read(NAME)
            if held is not None and _owner(held) == self._me.id:
                self._once.remove([NAME])

    @property
    def _once(self) -> Store:
        return Store(self._store.address, ONCE)

    def _read(self) -> _Held | None:
        """The holder; None without one, or if the object is damaged."""
        content = self._store.read(NAME)
        if content is None:
            return None
        try:
            return read_record(_Held, parse_json(content, NAME), NAME, ignore_unknown=True)
        except UserError:
            return None

    def _clear(self) -> None:
        """Put a lock away whose owner is gone; refuse while it lives."""
        held = self._read()
        if held is not None and self._lives(held):
            raise UserError(
                f"{self._store}: is being trained already ({held}); wait for it or stop it. If it is "
                f"gone for certain, remove {NAME} there"
            )
        now = self._read()
        if held is None or (now is not None and (now.id, now.beat) == (held.id, held.beat)):
            self._store.remove([NAME])

    def _lives(self, held: _Held) -> bool:
        if (running := is_running(held)) is not None:
            return running
        age = self._store.age(NAME) or 0.0
        # The clocks of two machines differ: no owner counts as gone that was not watched for a while.
        patience = max(2 * self._beat + 1, self._stale - max(age, 0.0))
        self._tell(
            f"{self._store}: watching up to {patience:.0f} s whether {held} still trains there"
        )
        until = time.monotonic() + patience
        while time.monotonic() < until:
            time.sleep(min(2.0, self._beat))
            now = self._read()
            if now is None or now.id != held.id:
                return False  # look again: a new owner is judged anew
            if now.beat != held.beat:
                return True
        return False

    def _live(self) -> None:
        store, beat = self._once, 0
        while not self._stop.wait(self._beat):
            # A store that does not answer is the mirror's to tell.
            with contextlib.suppress(TransferError, OSError):
                content = store.read(NAME)
                if content is None or _owner(content) != self.id:
                    self._lost.set()
                    return
                beat += 1
                store.write(NAME, _content(dataclasses.replace(self._me, beat=beat)))


def _content(held: _Held) -> bytes:
    return (json.dumps(dataclasses.asdict(held)) + "\n").encode()


def _owner(content: bytes) -> str:
    try:
        return str(parse_json(content, NAME)["id"])
    except (UserError, KeyError, TypeError):
        return ""
