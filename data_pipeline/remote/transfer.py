"""Reading files by URL through fsspec: timeouts, retries with backoff, resumption.

Used for the raw files of data sets and for the shards of remote data folders.
"""

from __future__ import annotations

import errno
import hashlib
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.redact import scrub, scrub_parts
from data_pipeline.remote.opening import missing_library, open_at, options, protocol_of

CHUNK = 1 << 17
RETRIED_STATUS = (408, 425, 429)
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
FINAL_BY_NAME = ("NoCredentialsError", "PartialCredentialsError", "NoSuchBucket")


class TransferError(OSError):
    """A file could not be had; says which, how often it was tried, and why, without secrets."""

    def __init__(self, message: str) -> None:
        super().__init__(scrub(message))


class _Cut(OSError):
    """The connection ended before the file did."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long to wait for a byte and how often to try again."""

    timeout: float = 30.0
    """Seconds to connect, and without a byte, before an attempt is given up."""
    retries: int = 4
    """Further attempts after the first; one that brought bytes does not count."""
    delay: float = 0.5
    """Seconds before the first further attempt; doubled each time, at most 30."""


def fetch(
    url: str,
    part: Path,
    patience: Patience,
    *,
    size: int | None = None,
    advance: Callable[[int, int | None], None] | None = None,
) -> None:
    """Bring a file here, going on from what `part` holds already.

    Parameters
    ----------
    url : str
        Anything that fsspec opens.
    part : Path
        Unfinished file; bytes are appended. It is whole when this returns. It is not
        checked: whoever calls knows the sum.
    patience : Patience
        Timeouts and retries.
    size : int, optional
        Length the file must have.
    advance : callable, optional
        Told the bytes here so far and in all.

    Raises
    ------
    TransferError
        If the file is not there, access is refused, or no attempt succeeded.
    """

    def attempt() -> None:
        offset = part.stat().st_size if part.exists() else 0
        if size is not None and offset >= size:
            if offset == size:
                return
            offset = 0
        with open_at(url, offset, patience.timeout) as (stream, start, total):
            expected = size if size is not None else total
            with part.open("r+b" if part.exists() else "wb") as file:
                file.truncate(start)
                file.seek(start)
                done = start
                while chunk := stream.read(CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    if expected is not None and done > expected:
                        break  # it may never end
                    if advance is not None:
                        advance(done, expected)
        if expected is not None and done < expected:
            raise _Cut(f"the connection ended after {done} of {expected} bytes")
        if expected is not None and done > expected:
            part.unlink()
            raise _Cut(f"the server sent {done} bytes for a file of {expected}")

    persist(url, attempt, patience, lambda: part.stat().st_size if part.exists() else 0)


def read_bytes(url: str, patience: Patience, limit: int = 1 << 30) -> bytes:
    """Whole content of a small file.

    Raises
    ------
    TransferError
        As `fetch`; also if the file is longer than `limit`.
    """
    content = b""

    def attempt() -> None:
        nonlocal content
        parts = []
        done = 0
        with open_at(url, 0, patience.timeout) as (stream, _, total):
            while chunk := stream.read(CHUNK):
                parts.append(chunk)
                done += len(chunk)
                if done > limit:
                    raise PermissionError(f"longer than {limit} bytes")
        if total is not None and done < total:
            raise _Cut(f"the connection ended after {done} of {total} bytes")
        content = b"".join(parts)

    persist(url, attempt, patience)
    return content


def files_at(url: str, patience: Patience | None = None) -> list[tuple[str, str, int | None]]:
    """Files below a folder: place below it, address and size, sorted by place.

    A file is itself the only one, at its own name.

    Raises
    ------
    TransferError
        If the folder cannot be listed.
    """
    import fsspec.core

    patience = patience or Patience()
    found: list[tuple[str, str, int | None]] = []

    def attempt() -> None:
        filesystem, root = fsspec.core.url_to_fs(url, **options(protocol_of(url), patience.timeout))
        root = root.rstrip("/")
        found.clear()
        for name, facts in filesystem.find(root, detail=True).items():
            place = name[len(root) :].lstrip("/") or name.rsplit("/", 1)[-1]
            found.append((place, filesystem.unstrip_protocol(name), facts.get("size")))

    persist(url, attempt, patience)
    return sorted(found)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def persist(
    url: str,
    attempt: Callable[[], None],
    patience: Patience,
    progress: Callable[[], int] = lambda: 0,
) -> None:
    """Call `attempt` until it succeeds, with growing pauses, as often as `patience` says.

    Raises
    ------
    TransferError
        If the file is not there, access is refused, or no attempt succeeded.
    UserError
        If the library for this kind of address is not installed.
    """
    failures = 0
    best = progress()
    while True:
        try:
            return attempt()
        except FileNotFoundError as error:
            if error.filename is not None:  # of this machine
                raise
            raise TransferError(f"{url}: not found") from error
        except PermissionError as error:
            if error.filename is not None:
                raise
            raise TransferError(f"{url}: access refused ({_why(error, url)})") from error
        except ImportError as error:
            raise missing_library(url, error) from error
        except Exception as error:  # each protocol's library has errors of its own
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            if _status(error) == 404:  # the Hub's client has an error of its own for it
                raise TransferError(f"{url}: not found") from FileNotFoundError(str(error))
            if _is_final(error):
                raise TransferError(f"{url}: {_why(error, url)}") from error
            now = progress()
            failures = 1 if now > best else failures + 1
            best = max(best, now)
            if failures > patience.retries:
                raise TransferError(f"{url}: {_why(error, url)}; tried {failures} times") from error
            time.sleep(_wait(failures, patience, error))


def _wait(failures: int, patience: Patience, error: Exception) -> float:
    wait = min(30.0, patience.delay * 2 ** (failures - 1)) * random.uniform(0.5, 1.0)
    headers = getattr(error, "headers", None) or {}
    asked = str(headers.get("Retry-After", ""))
    return max(wait, min(float(asked), 60.0)) if asked.isdigit() else wait


def _is_final(error: Exception) -> bool:
    """Whether trying again is of no use: refused by the server, or wrong in the URL."""
    status = _status(error)
    if 400 <= status < 500:
        return status not in RETRIED_STATUS
    if type(error).__name__ in FINAL_BY_NAME:  # of libraries that need not be installed
        return True
    return isinstance(error, (ValueError, TypeError, IsADirectoryError))


def _status(error: Exception) -> int:
    """What the server answered, in aiohttp's or requests' and httpx's way; 0 if it is not said."""
    response = getattr(error, "response", None)
    status = getattr(error, "status", None) or getattr(response, "status_code", None)
    return status if isinstance(status, int) else 0


def _why(error: Exception, url: str) -> str:
    if status := _status(error):
        return f"the server answered {status}"
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return scrub_parts(url, " ".join(str(error).split())) or type(error).__name__
