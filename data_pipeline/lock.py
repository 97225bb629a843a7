"""One writer of a folder at a time, also on file systems that know no locks.

The lock is a file that names its owner. It is made by a hard link (or by exclusive creation),
which is atomic on every file system, and its time of change is the owner's heartbeat. A kill or a
lost node leaves the file behind harmlessly: on the machine of the owner it is seen at once that
the process is gone, elsewhere that the heartbeat has stopped.
"""

from __future__ import annotations

import dataclasses
import getpass
import json
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable
from pathlib import Path

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.records import parse_json, read_record

HEARTBEAT = 5.0
"""Seconds between two signs of life."""
STALE = 60.0
"""Seconds without one, after which an owner on another machine counts as gone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """Who holds a lock: what the file says."""

    user: str
    host: str
    machine: str  # tells machines of one name apart, and boots and containers of one machine
    pid: int
    started: str  # of the process, in ticks since boot: process numbers are used again
    since: str
    id: str

    def __str__(self) -> str:
        return f"{self.user} on {self.host}, process {self.pid}, since {self.since}"


class Lock:
    """Held by one process at a time.

    Parameters
    ----------
    path : Path
        The lock file.
    what : str
        What the lock is of, as a message begins: ``"runs/a: is being trained"``.
    tell : callable
        Given a line where `acquire` has to wait to see whether an owner still lives.
    heartbeat, stale : float
        Seconds.
    """

    def __init__(
        self,
        path: Path,
        what: str,
        tell: Callable[[str], None] = lambda line: None,
        *,
        heartbeat: float = HEARTBEAT,
        stale: float = STALE,
    ) -> None:
        self.path, self._what, self._tell = path, what, tell
        self._heartbeat, self._stale = heartbeat, stale
        self._lost = threading.Event()
        self._release: weakref.finalize[..., Lock] | None = None

    def acquire(self) -> None:
        """Take the lock, or fail at once where another process holds it.

        Raises
        ------
        UserError
            Names the owner; or the file cannot be written.
        """
        draft = self.path.with_name(f".{self.path.name}.{uuid.uuid4().hex}")
        try:
            with files_of_user(f"{self.path}: cannot be written"):
                draft.write_text(json.dumps(dataclasses.asdict(myself())) + "\n", encoding="utf-8")
                while not _claim(draft, self.path):
                    self._clear(draft)
                descriptor = os.open(self.path, os.O_RDONLY)
        finally:
            draft.unlink(missing_ok=True)
        stop = threading.Event()
        # Not a method: the thread must not keep the lock, nor a finished process, alive.
        threading.Thread(
            target=_beat,
            args=(self.path, descriptor, self._heartbeat, stop, self._lost),
            daemon=True,
            name="lock",
        ).start()
        self._release = weakref.finalize(self, _let_go, self.path, descriptor, stop, os.getpid())

    def release(self) -> None:
        """Let go; nothing happens where the lock is not held."""
        if self._release is not None:
            self._release()

    def check(self) -> None:
        """Fail if the lock was taken away meanwhile, as after a long pause of this machine.

        Raises
        ------
        UserError
        """
        if self._lost.is_set():
            raise UserError(
                f"{self.path}: was removed or taken over by another process; this one stops "
                "before it writes anything more"
            )

    def _clear(self, draft: Path) -> None:
        """Put a lock away whose owner is gone.

        Raises
        ------
        UserError
            If the owner lives.
        """
        seen = _Sight.of(self.path)
        if seen is None:
            return
        if self._lives(seen, draft):
            raise UserError(
                f"{self._what} already ({seen.owner or 'by an unknown owner'}); wait for it or "
                f"stop it. If it is gone for certain, remove {self.path}"
            )
        aside = draft.with_name(draft.name + ".stale")
        try:
            os.rename(self.path, aside)
        except FileNotFoundError:
            return
        if _Sight.of(aside) != seen:  # another process was faster, and this is its lock: give back
            _claim(aside, self.path)
        aside.unlink(missing_ok=True)

    def _lives(self, seen: _Sight, draft: Path) -> bool:
        owner = seen.owner
        if owner is not None and (running := is_running(owner)) is not None:
            return running
        # Both times are of the file system's clock. It may have jumped: a heartbeat is only
        # believed to have stopped after it was watched for two beats.
        age = max(0.0, draft.stat().st_mtime - seen.beat)
        patience = max(2 * self._heartbeat + 1, self._stale - age)
        self._tell(
            f"{self.path}: watching up to {patience:.0f} s whether its owner lives ({owner})"
        )
        until = time.monotonic() + patience
        while time.monotonic() < until:
            time.sleep(min(0.5, self._heartbeat))
            now = _Sight.of(self.path)
            if now is None or now != seen:
                return False  # another one, or none: look again; a new owner is judged anew
            if now.beat != seen.beat:
                return True
        return False


@dataclasses.dataclass(frozen=True)
class _Sight:
    """A lock file as it was seen once; equal to another sight of the same lock."""

    content: bytes
    beat: float = dataclasses.field(compare=False)

    @classmethod
    def of(cls, path: Path) -> _Sight | None:
        try:
            with path.open("rb") as file:  # opened each time: NFS then asks the server
                return cls(file.read(1 << 16), os.fstat(file.fileno()).st_mtime)
        except FileNotFoundError:
            return None

    @property
    def owner(self) -> Owner | None:
        """None if the file is damaged, or is being written."""
        try:
            return read_record(Owner, parse_json(self.content, "lock"), "lock", ignore_unknown=True)
        except UserError:
            return None


def _claim(draft: Path, path: Path) -> bool:
    """Make `path` with the content of `draft`, unless it is there."""
    try:
        os.link(draft, path)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise
    try:  # a file system without hard links
        with path.open("xb") as file:
            file.write(draft.read_bytes())
        return True
    except FileExistsError:
        return False


def _beat(
    path: Path, descriptor: int, interval: float, stop: threading.Event, lost: threading.Event
) -> None:
    while not stop.wait(interval):
        try:
            if not os.path.samestat(os.fstat(descriptor), os.stat(path)):
                lost.set()
                return
            os.utime(path)
        except FileNotFoundError:
            lost.set()
            return
        except OSError:  # a file server that is away for a moment
            continue


def _let_go(path: Path, descriptor: int, stop: threading.Event, pid: int) -> None:
    if os.getpid() != pid:  # a forked child
        return
    stop.set()
    try:
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            path.unlink()
    except FileNotFoundError:
        pass
    finally:
        os.close(descriptor)


def myself() -> Owner:
    """This process as the owner of a lock, with an id of its own."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without an entry for this user
        user = f"user {os.getuid()}"
    return Owner(
        user=user,
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=_started(os.getpid()) or "",
        since=time.strftime("%Y-%m-%d %H:%M:%S %z"),
        id=uuid.uuid4().hex,
    )


def is_running(owner: Owner) -> bool | None:
    """Whether an owner's process runs; None where that cannot be seen from this machine."""
    if owner.machine != _machine():
        return None
    return _is_running(owner.pid, owner.started)


def _machine() -> str:
    """This boot of this machine, and the space in which its process numbers count."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """When a process started, in ticks since boot; None if it is gone (or only waited for)."""
    try:
        text = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    state, *fields = text.rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else fields[18].decode()


def _is_running(pid: int, started: str) -> bool:
    found = _started(pid)
    if found is not None and started:
        return found == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user, whose processes /proc may hide
        return True
    return not Path(f"/proc/{pid}").exists()  # there, but a zombie: gone
