"""Building a folder beside its place, and putting it there when it is whole.

Everything is built in ``.NAME.partial/`` beside the folder and renamed into place. A
process that is killed leaves the old folder as it was, or none and the building site,
from which the next one goes on.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from data_pipeline.files import sync

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)


def site_of(out: Path) -> Path:
    """Where a folder is built."""
    return out.parent / f".{out.name}.partial"


@contextmanager
def building_site(out: Path) -> Iterator[Path]:
    """The building site of a folder, held by one process at a time, cleared away when done.

    On a file system without locks each process builds in a site of its own.
    """
    partial = site_of(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    while True:
        partial.mkdir(exist_ok=True)
        try:
            handle = open(partial / "lock", "wb")  # noqa: SIM115
        except FileNotFoundError:
            continue
        with handle:
            try:
                fcntl.lockf(handle, fcntl.LOCK_EX)  # of this process: children do not inherit it
            except OSError as error:
                if error.errno not in NO_LOCKS:
                    raise
                break
            try:
                ours = os.path.samestat(os.fstat(handle.fileno()), os.stat(partial / "lock"))
            except FileNotFoundError:
                ours = False
            if ours:
                restore(out, partial)
                yield partial
                shutil.rmtree(partial, ignore_errors=True)
                return
    (partial / "lock").unlink(missing_ok=True)
    with suppress(OSError):  # it holds what another run left
        partial.rmdir()
    own = partial.with_name(f"{partial.name}-{socket.gethostname()}-{os.getpid()}")
    warnings.warn(
        f"{out.parent}: a file system without locks; this run goes on alone in {own}, which a kill "
        "leaves behind",
        stacklevel=3,
    )
    own.mkdir()
    try:
        yield own
    finally:
        shutil.rmtree(own, ignore_errors=True)


def publish(build: Path, out: Path, partial: Path) -> None:
    """Put a folder that is whole in its place."""
    old = partial / "old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        os.rename(out, old)
    os.rename(build, out)
    sync(out.parent)


def restore(out: Path, partial: Path) -> None:
    """Put the old folder back, if publishing the new one went no further."""
    if (partial / "old").exists() and not out.exists():
        os.rename(partial / "old", out)
