"""Files that appear whole or not at all: the one way in which this project writes a file."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def whole_file(
    path: Path, scratch: Path | None = None, *, durable: bool = True
) -> Iterator[IO[bytes]]:
    """A file to write that takes the place of `path` once it is whole.

    A reader sees the old file or the new one, never a part. Where writing fails, nothing is left
    of the new one.

    Parameters
    ----------
    path : Path
        Its folder must be there.
    scratch : Path, optional
        Folder on the same file system where it lies until then; that of `path` if not given.
    durable : bool
        Whether the content is on the disk, and not only with the kernel, before it takes its
        place. Without it a lost power supply can leave an empty file.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    # Not the pid: hosts that share the folder, and threads, can have the same one.
    beside = (scratch or path.parent) / f".{path.name}.{secrets.token_hex(4)}"
    try:
        with beside.open("wb+") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write bytes by `whole_file`."""
    with whole_file(path, durable=durable) as file:
        file.write(content)


def write_json(path: Path, content: Any, *, durable: bool = True) -> None:
    """Write JSON by `whole_file`, indented by one space."""
    write_whole(path, (json.dumps(content, indent=1) + "\n").encode(), durable=durable)


def sync(path: Path) -> None:
    """Flush a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
