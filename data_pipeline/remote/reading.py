"""Reading the files of a data folder, here or anywhere that fsspec reaches.

A shard from elsewhere is fetched whole into the node's cache and checked there.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

from data_pipeline.checks import Above, AtLeast, check_fields
from data_pipeline.errors import UserError, files_of_user, reason_of
from data_pipeline.remote.cache import Cache
from data_pipeline.remote.transfer import Patience, TransferError, read_bytes

if TYPE_CHECKING:
    from data_pipeline.folder.manifest import Shard

MAX_SMALL = 1 << 26
DAMAGED = "run vae-dist verify, restore it, or pass --on-bad-shard skip"
_NO_WAITING = getattr(os, "O_NONBLOCK", 0)


@dataclass(kw_only=True)
class RemoteConfig:
    """How a data folder at an address is read."""

    cache_dir: Path | None = None
    """Node-local folder for fetched shards; vae-dist-cache-UID in the temporary folder if not given."""
    cache_size: Annotated[float, Above(0)] = 20.0
    """GB that fetched shards may take; the least recently used go first."""
    remote_timeout: Annotated[float, Above(0)] = 30.0
    """Seconds without a byte after which a connection is given up."""
    remote_retries: Annotated[int, AtLeast(0)] = 5
    """Further attempts, with growing pauses; one that brought bytes does not count."""
    remote_connections: Annotated[int, AtLeast(1)] = 4
    """Shards that a process fetches at once."""

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def patience(self) -> Patience:
        """The timeouts and retries as the transfer takes them."""
        return Patience(timeout=self.remote_timeout, retries=self.remote_retries)


def is_remote(path: str) -> bool:
    """Whether this is an address rather than a path."""
    return "://" in path and not path.startswith("file://")


def join(folder: str, name: str) -> str:
    """Path or address of a file of a folder; a query (a signature, say) stays at the end."""
    if is_remote(folder) and "?" in folder:
        base, query = folder.split("?", 1)
        return f"{base.rstrip('/')}/{name}?{query}"
    return f"{folder.rstrip('/')}/{name}"


def local_path(url: str, *, sha256: str, size: int, config: RemoteConfig) -> Path:
    """Path of a file on this machine's disk.

    Parameters
    ----------
    url : str
        Address or path; a path is given back as it is.
    sha256 : str
        Of the content.
    size : int
        In bytes.
    config : RemoteConfig
        Cache and patience.

    Returns
    -------
    Path
        Of a file with that content (of an address). Newer files may push it out of the
        cache: whoever cannot open it calls again.

    Raises
    ------
    ValueError
        If it cannot be had; one line that names the address.
    """
    if not is_remote(url):
        return _plain(url)
    try:
        return _cache_of(config).path(url, sha256, size, config.patience)
    except TransferError as error:
        raise UserError(str(error)) from error
    except OSError as error:  # of this machine: the cache's disk
        raise UserError(
            f"--cache-dir {_cache_of(config).folder}: cannot be used ({reason_of(error)})"
        ) from error


def read_small(path: str, config: RemoteConfig, limit: int = MAX_SMALL) -> bytes:
    """Content of a small file, never from the cache; FileNotFoundError if there is none.

    Raises
    ------
    UserError
        If it is longer than `limit`, no plain file, or cannot be read.
    """
    if not is_remote(path):
        try:
            with files_of_user(f"{path}: cannot be read"), open_plain(_plain(path)) as file:
                content = file.read(limit + 1)
        except UserError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                raise error.__cause__ from None
            raise
        if len(content) > limit:
            raise UserError(f"{path}: longer than {limit} bytes")
        return content
    try:
        return read_bytes(path, config.patience, limit)
    except TransferError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise UserError(str(error)) from error


@contextlib.contextmanager
def open_shard(path: str, shard: Shard, config: RemoteConfig) -> Iterator[BinaryIO]:
    """A shard opened for reading, here or from the cache, of the size that the manifest says.

    Raises
    ------
    UserError
        If it is missing, no plain file or of another size, or cannot be read, now or while it
        is open; names the shard.
    """
    with files_of_user(f"{path}: cannot be read", DAMAGED):
        while True:
            here = local_path(path, sha256=shard.sha256, size=shard.bytes, config=config)
            try:
                file = open_plain(here)
            except FileNotFoundError:
                if is_remote(path):  # pushed out of the cache before it was opened
                    continue
                raise
            break
        with file:
            size = os.fstat(file.fileno()).st_size
            if size != shard.bytes:
                raise UserError(
                    f"{path}: damaged shard ({size} bytes, the manifest says {shard.bytes}); "
                    f"{DAMAGED}"
                )
            yield file


def open_plain(path: Path) -> BinaryIO:
    """A plain file opened for reading; a named pipe, on which opening hangs, is an OSError."""
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _NO_WAITING))  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a plain file", str(path))
    return file


def bring(files: Sequence[tuple[str, Shard]], config: RemoteConfig) -> None:
    """Fetch what is not in the cache yet, several at once; whoever reads meets the faults.

    Parameters
    ----------
    files : sequence of (str, Shard)
        Addresses or paths of shards that are read next.
    config : RemoteConfig
        Cache, patience and number of connections.
    """
    cache = _cache_of(config)
    wanted = {
        shard.sha256: (path, shard)
        for path, shard in files
        if is_remote(path) and not cache.holds(shard.sha256, shard.bytes)
    }
    if len(wanted) < 2:
        return

    def fetch_one(path: str, shard: Shard) -> None:
        with contextlib.suppress(ValueError, OSError):
            local_path(path, sha256=shard.sha256, size=shard.bytes, config=config)

    with ThreadPoolExecutor(config.remote_connections) as pool:
        for path, shard in wanted.values():
            pool.submit(fetch_one, path, shard)


def _plain(path: str) -> Path:
    return Path(path.removeprefix("file://"))


def _cache_of(config: RemoteConfig) -> Cache:
    folder = config.cache_dir
    if folder is None:
        folder = Path(tempfile.gettempdir()) / f"vae-dist-cache-{os.getuid()}"
    return _open_cache(Path(folder).expanduser(), int(config.cache_size * 1e9))


@functools.cache
def _open_cache(folder: Path, limit: int) -> Cache:
    return Cache(folder, limit)
