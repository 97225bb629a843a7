"""Where runs of an object store lie on this machine."""

from __future__ import annotations

import re
from pathlib import Path

import platformdirs

from data_pipeline.redact import shown
from data_pipeline.remote.opening import protocol_of

_CHECKPOINT = re.compile(r"(.*?)/(checkpoints(?:/[^/]+)?)")


def run_place(address: str, cache: Path | None = None) -> Path:
    """Folder in which a training writes the run of an address."""
    return _place(cache or cache_folder() / "runs", address)


def copy_place(address: str) -> Path:
    """Folder into which the run of an address is fetched by whoever only reads it."""
    return _place(cache_folder() / "copies", address)


def cache_folder() -> Path:
    """The user's cache folder on this system (``~/.cache/vae-dist`` on Linux)."""
    return Path(platformdirs.user_cache_dir("vae-dist", appauthor=False))


def split_address(address: str) -> tuple[str, str]:
    """The address of a run, and what of it is meant: ``checkpoints/step-…``, or all (empty)."""
    found = _CHECKPOINT.fullmatch(address.rstrip("/"))
    return (found[1], found[2]) if found else (address.rstrip("/"), "")


def _place(folder: Path, address: str) -> Path:
    """A folder for an address, without the secrets in it."""
    rest = shown(address).split("://", 1)[1].split("?", 1)[0]
    parts = [re.sub(r"[^\w.+=@-]", "_", part) for part in rest.split("/")]
    return folder.joinpath(protocol_of(address), *(p for p in parts if p.strip(".")))
