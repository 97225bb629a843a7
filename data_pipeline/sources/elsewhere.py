"""A source at an address: its files brought to this machine's disk, one by one.

They lie in the temporary folder (``TMPDIR``) and go with the last user of the images. Nothing is
held in memory but a few chunks, and a cut transfer goes on where it stopped.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.progress import Progress
from data_pipeline.redact import shown
from data_pipeline.remote.opening import HTTP, protocol_of
from data_pipeline.remote.transfer import (
    Patience,
    TransferError,
    fetch,
    files_at,
)

FILES = (".npy", ".npz", ".tar", ".parquet", ".tif", ".tiff", ".zip")
"""Endings of an address that is one file; others are folders."""
AT_ONCE = 8


@dataclass(frozen=True)
class _File:
    place: PurePosixPath
    url: str
    size: int | None


class Brought:
    """The files of an address, here.

    Parameters
    ----------
    url : str
        A file or, where the protocol lists folders, a folder.
    patience : Patience
        Timeouts and retries.
    progress : Progress

    Attributes
    ----------
    path : Path
        The file or the folder, of the address's own name.

    Raises
    ------
    UserError
        If there is nothing, a file cannot be had, or the disk is too small for all.
    """

    def __init__(self, url: str, patience: Patience, progress: Progress) -> None:
        where = f"--source {shown(url)}"
        name = _name(url)
        alone = is_file(url)
        files = [_File(PurePosixPath(name), url, None)] if alone else list(_below(url, name, where))
        with files_of_user(f"{where}: no space to bring it here", "set TMPDIR to a larger disk"):
            root = Path(tempfile.mkdtemp(prefix="vae-dist-source-"))
            self._end = weakref.finalize(self, _remove, str(root), os.getpid())
            needed, free = sum(f.size or 0 for f in files), shutil.disk_usage(root).free
            if needed > free:
                raise UserError(
                    f"{where}: {needed / 1e6:,.0f} MB, but {root.parent} has {free / 1e6:,.0f} MB "
                    "free; set TMPDIR to a folder on a larger disk"
                )
            self._fetch(root, files, patience, progress, f"bringing {shown(url)}")
        self.path = root / name
        self._address = shown(url)

    def by_address(self, text: str) -> str:
        """A message, with the address in place of where its files lie for now."""
        return text.replace(str(self.path), self._address)

    def _fetch(
        self, root: Path, files: list[_File], patience: Patience, progress: Progress, task: str
    ) -> None:
        def one(file: _File) -> None:
            target = root / file.place
            target.parent.mkdir(parents=True, exist_ok=True)
            fetch(file.url, target, patience, size=file.size)

        try:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                for done, _ in enumerate(pool.map(one, files), 1):
                    progress.advance(task, done, len(files))
        except TransferError as error:
            raise UserError(str(error)) from error


class ByAddress:
    """Passes on what is said, by the address of the files."""

    def __init__(self, brought: Brought, progress: Progress) -> None:
        self._brought, self._progress = brought, progress

    def say(self, text: str) -> None:
        """Pass on a finding."""
        self._progress.say(self._brought.by_address(text))

    def advance(self, task: str, done: int, total: int | None) -> None:
        """Pass on how far a task is."""
        self._progress.advance(task, done, total)


def _below(url: str, name: str, where: str) -> Iterator[_File]:
    """The files of a folder, each at its place below the folder's name."""
    if protocol_of(url) in HTTP:
        raise UserError(
            f"{where}: a folder cannot be listed over http; give the address of one file "
            f"({', '.join(FILES)})"
        )
    try:
        found = files_at(url)
    except TransferError as error:
        raise UserError(str(error)) from error
    if not found:
        raise UserError(f"{where}: no file there")
    for place, address, size in found:
        parts = PurePosixPath(place).parts
        if not parts or ".." in parts or PurePosixPath(place).is_absolute():
            raise UserError(f"{where}: {place!r:.80} leads out of the folder")
        yield _File(PurePosixPath(name, *parts), address, size)


def _name(url: str) -> str:
    parts = urlsplit(url)
    name = unquote(PurePosixPath(parts.path.rstrip("/")).name or parts.netloc).rpartition("/")[2]
    if name in ("", ".", ".."):
        raise UserError(f"--source {shown(url)}: names no file and no folder")
    return name


def is_file(url: str) -> bool:
    """Whether an address is one file, by its ending."""
    return PurePosixPath(urlsplit(url).path).suffix.lower() in FILES


def name_of(url: str) -> str:
    """Name of the file, without its ending, or of the folder at an address."""
    name = _name(url)
    return PurePosixPath(name).stem if is_file(url) else name.removesuffix(".zarr")


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:  # a forked writer leaves the files to its parent
        shutil.rmtree(folder, ignore_errors=True)
