"""Reading files of a data folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from data_pipeline.loader import LoaderConfig
    from data_pipeline.manifest import Shard


def is_remote(path: str) -> bool:
    """Whether this is an address rather than a path."""
    return "://" in path


def join(folder: str, name: str) -> str:
    """Path or address of a file of a folder."""
    return f"{folder.rstrip('/')}/{name}"


def read_small(path: str, config: LoaderConfig) -> bytes:
    """Content of a small file; FileNotFoundError if there is none."""
    return Path(path).read_bytes()


def read_whole(path: str, shard: Shard, config: LoaderConfig) -> bytes:
    """Content of a shard. May be damaged: the caller checks."""
    return Path(path).read_bytes()


def read_some(path: str, shard: Shard, offset: int, length: int, config: LoaderConfig) -> bytes:
    """Some bytes of a shard; fewer where the file ends early."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)
