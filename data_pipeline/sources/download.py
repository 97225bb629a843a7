"""Downloading raw files: several mirrors, resumed, checked before they get their name."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs
from filelock import FileLock

from data_pipeline.errors import UserError
from data_pipeline.progress import Progress
from data_pipeline.remote.transfer import DISK_FULL, Patience, TransferError, fetch
from data_pipeline.sources.base import SourceConfig


class DownloadError(OSError):
    """No mirror had a good copy; the text lists each mirror and what was wrong."""


def download_folder(config: SourceConfig) -> Path:
    """Folder that keeps downloaded raw files: ``--download-dir``, else the user's cache."""
    if config.download_dir is not None:
        return config.download_dir.expanduser()
    return Path(platformdirs.user_cache_dir("vae-dist")) / "raw"


def download(
    name: str,
    mirrors: Sequence[str],
    target: Path,
    fault_of: Callable[[Path], str | None],
    config: SourceConfig,
    progress: Progress,
) -> str:
    """Fetch a file unless a good copy lies at `target` already.

    The bytes gather in ``NAME.part``; the file gets its name only when `fault_of` finds
    nothing. Processes that want the same file wait for the first.

    Parameters
    ----------
    name : str
        Name of the file under each mirror.
    mirrors : sequence of str
        Base URLs, tried in order.
    target : Path
        Where the file shall lie.
    fault_of : callable
        Says what is wrong with a whole file, or None.
    config : SourceConfig
        Timeouts and retries.
    progress : Progress
        Told of bytes and of mirrors that failed.

    Returns
    -------
    str
        The URL it came from, or the path if it was there.

    Raises
    ------
    DownloadError
        If no mirror had a good copy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with FileLock(target.with_name(target.name + ".lock")):
        if target.exists():
            if fault_of(target) is None:
                return str(target)
            target.unlink()
        failures = []
        for mirror in mirrors:
            url = mirror.rstrip("/") + "/" + name
            try:
                _fetch_checked(url, part, fault_of, config, progress)
            except TransferError as error:
                failures.append(str(error))
                progress.say(f"download failed: {error}")
                continue
            except OSError as error:
                if error.errno not in DISK_FULL:
                    raise
                part.unlink(missing_ok=True)
                raise UserError(
                    f"{target.parent}: disk full; choose another --download-dir"
                ) from error
            os.replace(part, target)
            progress.say(f"downloaded {url}")
            return url
    raise DownloadError("; ".join(failures))


def _fetch_checked(
    url: str,
    part: Path,
    fault_of: Callable[[Path], str | None],
    config: SourceConfig,
    progress: Progress,
) -> None:
    patience = Patience(timeout=config.download_timeout, retries=config.download_retries)
    resumed = part.exists()
    while True:
        fetch(
            url,
            part,
            patience,
            advance=lambda done, total: progress.advance(f"downloading {part.stem}", done, total),
        )
        fault = fault_of(part)
        if fault is None:
            return
        part.unlink()
        if not resumed:
            raise TransferError(f"{url}: {fault}")
        resumed = False  # the old beginning may have been another file's: once more, from zero


def sum_fault(path: Path, algorithm: str, expected: str) -> str | None:
    """What is wrong with a file's checksum, or None."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, algorithm).hexdigest()
    if found == expected:
        return None
    return f"{algorithm.upper()} is {found[:12]}…, should be {expected[:12]}…"
