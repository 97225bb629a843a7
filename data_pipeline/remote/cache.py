"""Files from elsewhere kept on this node's disk: whole, checked, shared by its processes.

An object is named by its SHA-256. Beside it lies a record of when it was last checked and
how the file looked then; the record's own modification time is when the object was last
used. Objects are fetched under a lock of their own, so that of several processes one
fetches and the others wait; a lock dies with its process.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from data_pipeline.errors import UserError
from data_pipeline.files import write_json
from data_pipeline.records import parse_json, read_record
from data_pipeline.redact import shown
from data_pipeline.remote.transfer import DISK_FULL, Patience, TransferError, fetch, sha256_of

RECHECK_SECONDS = 24 * 3600
TOUCH_SECONDS = 60

_SHA256 = re.compile("[0-9a-f]{64}")
_OURS = re.compile(r"[0-9a-f]{64}(?:\.(\d+)\.part)?")


@dataclass(frozen=True)
class _Known:
    """An object that this process has seen in order."""

    signature: tuple[int, ...]
    touched: float


@dataclass(frozen=True, kw_only=True)
class _Checked:
    """The record beside an object: when it was last checked, and how the file looked then."""

    signature: tuple[int, ...]
    checked: float


class Cache:
    """A folder of files with a limit on their total size; the least recently used go first.

    Parameters
    ----------
    folder : Path
        Made if missing, for this user alone.
    limit : int
        Bytes that the files may take, those being fetched included.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder = folder
        self.limit = limit
        self.known: dict[str, _Known] = {}
        self.fetched: set[str] = set()
        self.warned = False

    def path(self, url: str, sha256: str, size: int, patience: Patience) -> Path:
        """Path of an object, fetched if it is not here or no longer in order.

        The file stays until newer ones push it out; whoever finds it gone calls again.

        Raises
        ------
        ValueError
            If the object is larger than the cache, or the disk is full.
        TransferError
            If it cannot be had, or is not the object with this sum.
        """
        if not _SHA256.fullmatch(sha256):  # it becomes a file name
            raise UserError(f"{url}: the manifest's SHA-256 {sha256[:80]!r} is not a SHA-256 sum")
        path = self.folder / sha256
        if self._in_order(path, size):
            return path
        if size > self.limit:
            raise UserError(
                f"{url}: {size / 1e9:.3g} GB do not fit in --cache-size {self.limit / 1e9:.3g}"
            )
        self._make_folder()
        with FileLock(self.folder / "locks" / sha256):
            if self._in_order(path, size) or self._checked(path, sha256, size):
                return path
            try:
                self._fetch(url, path, sha256, size, patience)
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                raise UserError(
                    f"{self.folder}: disk full; choose another --cache-dir, or lower --cache-size"
                ) from error
        return path

    def holds(self, sha256: str, size: int) -> bool:
        """Whether an object is here and in order, as far as can be told without reading it."""
        return self._in_order(self.folder / sha256, size)

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if self.folder.stat().st_uid != os.getuid():
            raise UserError(f"--cache-dir {self.folder}: belongs to another user")
        (self.folder / "locks").mkdir(exist_ok=True)

    def _in_order(self, path: Path, size: int) -> bool:
        """Whether the file is as it was when its content was last checked, not long ago."""
        signature = _signature(path)
        if signature is None or signature[0] != size:
            return False
        known = self.known.get(path.name)
        now = time.time()
        if known is not None and known.signature == signature:
            if now - known.touched > TOUCH_SECONDS:
                self._use(path, signature)
            return True
        where = str(_record(path))
        try:
            text = _record(path).read_bytes()
            record = read_record(_Checked, parse_json(text, where), where)
        except (OSError, UserError):
            return False
        if record.signature != signature or not 0 <= now - record.checked < RECHECK_SECONDS:
            return False
        self._use(path, signature)
        return True

    def _use(self, path: Path, signature: tuple[int, ...]) -> None:
        try:
            os.utime(_record(path))
        except FileNotFoundError:  # evicted this moment
            pass
        self.known[path.name] = _Known(signature, time.time())

    def _checked(self, path: Path, sha256: str, size: int) -> bool:
        """Check the content of what lies here; what is wrong is removed."""
        try:
            whole = path.stat().st_size == size and sha256_of(path) == sha256
        except FileNotFoundError:  # never here, or evicted meanwhile
            return False
        if not whole:
            _remove(path)
            return False
        with self._room():
            return self._write_record(path)

    def _write_record(self, path: Path) -> bool:
        """Note that the content is right, under the lock of `_room`; False if it was evicted."""
        signature = _signature(path)
        if signature is None:
            return False
        write_json(_record(path), {"signature": signature, "checked": time.time()}, durable=False)
        self.known[path.name] = _Known(signature, time.time())
        return True

    def _room(self) -> FileLock:
        """Held by whoever evicts, or makes a part an object."""
        return FileLock(self.folder / "locks" / "room")

    def _fetch(self, url: str, path: Path, sha256: str, size: int, patience: Patience) -> None:
        part = path.with_suffix(f".{size}.part")
        evicted = self._make_room(size, part)
        if evicted and sha256 in self.fetched and not self.warned:
            self.warned = True
            warnings.warn(
                f"{shown(url)}: fetched again, for --cache-size {self.limit / 1e9:.3g} GB is too small "
                "for the shards in use at once (with --loader stream one a lane): raise it",
                stacklevel=2,
            )
        resumed = part.stat().st_size > 0
        while True:
            fetch(url, part, patience, size=size)
            if sha256_of(part) == sha256:
                break
            part.unlink()
            if not resumed:
                raise TransferError(
                    f"{url}: has another SHA-256 than the manifest says: changed or damaged there"
                )
            resumed = False  # the old beginning may be to blame: once more, from zero
        with part.open("rb") as file:
            os.fsync(file.fileno())
        with self._room():  # whoever adds up sees it once, and evicts it with its record
            os.replace(part, path)
            self._write_record(path)
        self.fetched.add(sha256)

    def _make_room(self, size: int, part: Path) -> bool:
        """Remove the least recently used until `size` more bytes fit, and lay claim to them.

        Returns whether anything had to go.
        """
        evicted = False
        while True:
            with self._room():
                others = [entry for entry in self._entries() if entry.path != part]
                others.sort(key=lambda entry: entry.used)
                here = part.stat().st_size if part.exists() else 0
                excess = sum(entry.size for entry in others) + size - self.limit
                lacking = size - here - shutil.disk_usage(self.folder).free
                missing = max(excess, lacking)
                busy = []
                for entry in others:
                    if missing <= 0:
                        break
                    if self._evict(entry):
                        missing -= entry.size
                        evicted = True
                    else:
                        busy.append(entry)
                if missing <= 0:
                    part.touch()
                    return evicted
                if not busy:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            time.sleep(0.1)  # others are fetching; what they fetch can go when they have it

    def _evict(self, entry: _Entry) -> bool:
        if entry.path.suffix != ".part":
            _remove(entry.path)
            return True
        try:  # a part may go only if nobody is fetching it
            with FileLock(self.folder / "locks" / entry.path.name.split(".")[0], timeout=0):
                entry.path.unlink(missing_ok=True)
        except Timeout:
            return False
        return True

    def _entries(self) -> Iterator[_Entry]:
        for name in os.listdir(self.folder):
            match = _OURS.fullmatch(name)  # whatever else lies here is not ours to remove
            if match is None:
                continue
            path = self.folder / name
            try:
                status = path.stat()
                if match[1] is not None:
                    yield _Entry(path, int(match[1]), status.st_mtime)
                else:
                    yield _Entry(path, status.st_size, _used(path, status.st_mtime))
            except FileNotFoundError:
                continue


@dataclass(frozen=True)
class _Entry:
    """Something that takes space: an object, or a part counted at its final size."""

    path: Path
    size: int
    used: float


def _used(path: Path, otherwise: float) -> float:
    try:
        return _record(path).stat().st_mtime
    except FileNotFoundError:
        return otherwise


def _record(path: Path) -> Path:
    return path.with_suffix(".json")


def _remove(path: Path) -> None:
    _record(path).unlink(missing_ok=True)
    path.unlink(missing_ok=True)


def _signature(path: Path) -> tuple[int, ...] | None:
    """What changes when a file is written to or exchanged; size first."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
