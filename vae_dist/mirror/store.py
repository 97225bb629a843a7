"""A run's folder in an object store: single objects, each whole or not there."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from data_pipeline.errors import UserError
from data_pipeline.redact import shown
from data_pipeline.remote.opening import missing_library, options, protocol_of
from data_pipeline.remote.reading import join
from data_pipeline.remote.transfer import (
    Patience,
    TransferError,
    fetch,
    persist,
    read_bytes,
)

T = TypeVar("T")

ONCE = Patience(retries=0)
MOST_BYTES = 1 << 30
"""Of a file that is read whole: records and logs."""


class Store:
    """The objects below an address, by name.

    Parameters
    ----------
    address : str
        Of a run, for any protocol that fsspec can write.
    patience : Patience
        Of every call; `ONCE` where the caller tries again by itself.

    Raises
    ------
    UserError
        By any call, if the library for such addresses is not installed.
    TransferError
        By any call, if the store does not do what it was asked; says why, without secrets.
    """

    def __init__(self, address: str, patience: Patience = Patience()) -> None:  # noqa: B008
        self.address = address.rstrip("/")
        self.patience = patience

    def __str__(self) -> str:
        return shown(self.address)

    @cached_property
    def _opened(self) -> tuple[Any, str]:
        import fsspec.core

        protocol = protocol_of(self.address)
        own = options(protocol, self.patience.timeout)
        try:
            filesystem, root = fsspec.core.url_to_fs(self.address, **own)
        except ImportError as error:
            raise missing_library(self.address, error) from error
        except ValueError as error:
            raise UserError(f"{self}: {' '.join(str(error).split())}") from error
        return filesystem, root.rstrip("/")

    def read(self, name: str) -> bytes | None:
        """Content of an object; None if there is none."""
        self._forget_listings()
        try:
            return read_bytes(join(self.address, name), self.patience, MOST_BYTES)
        except TransferError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                return None
            raise

    def fetch(self, name: str, path: Path) -> None:
        """Bring an object into a new file."""
        path.unlink(missing_ok=True)
        self._forget_listings()
        fetch(join(self.address, name), path, self.patience)

    def write(self, name: str, content: bytes) -> None:
        """Write a small object."""
        self._call(name, lambda fs, path: fs.pipe_file(path, content))

    def create(self, name: str, content: bytes) -> bool:
        """Write a small object that is not there yet; False if it is.

        One request that succeeds for one of several writers where the store can do that (S3,
        Google Cloud Storage); a look and a write elsewhere.
        """

        def attempt(fs: Any, path: str) -> bool:
            try:
                fs.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno == errno.EINVAL and "PreconditionFailed" in repr(error.__cause__):
                    return False
                if error.errno != errno.ENOSYS:
                    raise
                if fs.exists(path):  # a store without conditional writes
                    return False
                fs.pipe_file(path, content)
            return True

        return self._call(name, attempt)

    def put(self, path: Path, name: str) -> None:
        """Write a file as an object; a reader sees all of it or what was there before."""
        self._call(name, lambda fs, there: fs.put_file(str(path), there))

    def move(self, name: str, to: str) -> None:
        """Rename an object."""

        def attempt(fs: Any, path: str) -> None:
            fs.copy(path, path.removesuffix(name) + to)
            fs.rm_file(path)

        self._call(name, attempt)

    def remove(self, names: Iterable[str]) -> None:
        """Remove objects, one after the other; one that is gone already is no error."""
        for name in names:
            try:
                self._call(name, lambda fs, path: fs.rm_file(path))
            except TransferError as error:
                if not isinstance(error.__cause__, FileNotFoundError):
                    raise

    def age(self, name: str) -> float | None:
        """Seconds since an object was written, by this machine's clock; None if unknown."""
        import datetime

        try:
            written = self._call(name, lambda fs, path: fs.modified(path))
        except (TransferError, NotImplementedError):
            return None
        if written.tzinfo is None:
            written = written.replace(tzinfo=datetime.UTC)
        return (datetime.datetime.now(datetime.UTC) - written).total_seconds()

    def names(self) -> list[str]:
        """Names of all objects; a name that leaves the folder is refused."""

        def attempt(fs: Any, path: str) -> list[str]:
            try:
                found = fs.find(path)
            except FileNotFoundError:
                return []
            return [one.removeprefix(path).lstrip("/") for one in found]

        found = sorted(name for name in self._call("", attempt) if name)
        for name in found:
            parts = PurePosixPath(name).parts
            if "\\" in name or "\0" in name or ".." in parts or "/".join(parts) != name:
                raise UserError(f"{self}: holds an object {name!r:.80}, which is no name of a file")
        return found

    def _forget_listings(self) -> None:
        """Other machines write here too; fsspec keeps one file system for all that open an address."""
        self._opened[0].invalidate_cache()

    def _call(self, name: str, work: Callable[[Any, str], T]) -> T:
        answer: list[T] = []

        def attempt() -> None:
            self._forget_listings()
            filesystem, root = self._opened
            answer[:] = [work(filesystem, f"{root}/{name}" if name else root)]

        persist(join(self.address, name) if name else self.address, attempt, self.patience)
        return answer[0]


@contextlib.contextmanager
def asked() -> Iterator[None]:
    """What the store refuses before the training begins is the user's to see to."""
    try:
        yield
    except TransferError as error:
        raise UserError(f"--runs-dir: {error}; Fix: see docs/remote.md") from error
