"""Reading the files of a data folder, here or anywhere that fsspec reaches.

A shard from elsewhere is fetched whole into the node's cache and checked there.
"""

from __future__ import annotations

import contextlib
import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from data_pipeline.errors import UserError
from data_pipeline.remote.cache import Cache
from data_pipeline.remote.transfer import Patience, TransferError, read_bytes

if TYPE_CHECKING:
    from data_pipeline.folder.manifest import Shard

T = TypeVar("T")


@dataclass(kw_only=True)
class RemoteConfig:
    """How a data folder at an address is read."""

    cache_dir: Path | None = None
    """Node-local folder for fetched shards; vae-dist-cache-UID in the temporary folder if not given."""
    cache_size: float = 20.0
    """GB that fetched shards may take; the least recently used go first."""
    remote_timeout: float = 30.0
    """Seconds without a byte after which a connection is given up."""
    remote_retries: int = 5
    """Further attempts, with growing pauses; one that brought bytes does not count."""
    remote_connections: int = 4
    """Shards that a process fetches at once."""

    def __post_init__(self) -> None:
        if self.cache_size <= 0:
            raise UserError(f"--cache-size {self.cache_size}: must be positive")
        if self.remote_timeout <= 0:
            raise UserError(f"--remote-timeout {self.remote_timeout}: must be positive")
        if self.remote_retries < 0:
            raise UserError(f"--remote-retries {self.remote_retries}: must not be negative")

        if self.remote_connections < 1:
            raise UserError(f"--remote-connections {self.remote_connections}: must be at least 1")

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


def read_text(url: str, config: RemoteConfig | None = None) -> str:
    """Content of a small text file; FileNotFoundError if there is none."""
    return read_small(url, config or RemoteConfig()).decode()


def read_small(path: str, config: RemoteConfig) -> bytes:
    """Content of a small file, never from the cache; FileNotFoundError if there is none."""
    if not is_remote(path):
        return _plain(path).read_bytes()
    try:
        return read_bytes(path, config.patience)
    except TransferError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise error.__cause__ from None
        raise UserError(str(error)) from error


def read_whole(path: str, shard: Shard, config: RemoteConfig) -> bytes:
    """Content of a shard. A local file may be damaged: the caller checks."""
    return _read(path, shard, config, lambda file: file.read())


def read_some(path: str, shard: Shard, offset: int, length: int, config: RemoteConfig) -> bytes:
    """Some bytes of a shard; fewer where a local file ends early."""

    def some(file: BinaryIO) -> bytes:
        file.seek(offset)
        return file.read(length)

    return _read(path, shard, config, some)


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


def _read(path: str, shard: Shard, config: RemoteConfig, action: Callable[[BinaryIO], T]) -> T:
    while True:
        here = local_path(path, sha256=shard.sha256, size=shard.bytes, config=config)
        try:
            file = here.open("rb")
        except FileNotFoundError:
            if is_remote(path):  # pushed out of the cache before it was opened
                continue
            raise
        with file:
            return action(file)


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
