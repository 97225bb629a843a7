"""The folder that is to be written: where it will lie, and what lies there already."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.folder.manifest import MANIFEST_NAME, NAMES_NAME, PICTURE_NAME, Manifest
from data_pipeline.folder.manifest_file import parse_manifest
from data_pipeline.folder.wids import wids_indexes
from data_pipeline.remote.reading import RemoteConfig, read_small

if TYPE_CHECKING:
    from data_pipeline.write.config import PrepareConfig


def check_place(asked: Path) -> Path:
    """Refuse a folder that cannot be put in its place by one rename.

    Parameters
    ----------
    asked : Path
        The folder that is to be written.

    Returns
    -------
    Path
        Where it will lie: what a link points to, not the link.

    Raises
    ------
    UserError
        If it is a file, a mount point, or the current folder lies in it.
    """
    out = Path(os.path.realpath(asked))
    current = Path(os.path.realpath(os.curdir))
    if out == current or out in current.parents:
        raise UserError(
            f"--out {asked}: the current folder lies in it and would be exchanged; "
            "choose a folder inside, or run from elsewhere"
        )
    with files_of_user(f"--out {asked}: cannot be used"):
        if os.path.islink(out):
            raise UserError(f"--out {asked}: a link that leads in a circle")
        if os.path.lexists(out) and os.path.ismount(out):
            raise UserError(
                f"--out {asked}: a mount point, which cannot be exchanged; choose a folder inside, "
                f"as in {asked / 'data'}"
            )
        if out.exists() and not out.is_dir():
            raise UserError(f"--out {asked}: is a file; choose a folder")
    return out


def present_in(out: Path, key: str, config: PrepareConfig) -> Manifest | None:
    """What lies in the folder already, if it is just what would be written."""
    path = out / MANIFEST_NAME
    other = "choose another --out"
    with files_of_user(f"--out {out}: cannot be read", other):
        names = sorted(os.listdir(out)) if out.exists() else []
    if MANIFEST_NAME not in names:
        if names:
            raise UserError(f"{out}: exists and is not a data folder; {other}")
        return None
    try:
        manifest = parse_manifest(read_small(str(path), RemoteConfig()), str(path))
    except UserError as error:
        raise UserError(f"{error}; or {other}, or remove the folder") from error
    if manifest.provenance.get("key") == key:
        return manifest
    if not config.overwrite:
        raise UserError(
            f"{out}: holds {manifest.name}, written from other images or with other "
            f"settings; {other}, or pass --overwrite True"
        )
    ours = {MANIFEST_NAME, PICTURE_NAME, NAMES_NAME, *wids_indexes(manifest)}
    ours |= {shard.name for split in manifest.splits.values() for shard in split.shards}
    strange = [name for name in names if name not in ours]
    if strange:
        raise UserError(
            f"{out}: holds {strange[0]!r} and {len(strange) - 1} more files that vae-dist did not "
            f"write, which --overwrite would delete; move them, or {other}"
        )
    return None


def free_words(folder: Path) -> str:
    """How much room is left there, as part of a sentence; empty if that cannot be known."""
    try:
        return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB are free there; "
    except OSError:
        return ""
