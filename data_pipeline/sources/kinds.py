"""Which kind of source a file or a folder is, by the endings of names."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

KINDS = {
    **dict.fromkeys((".npy", ".npz"), "npz"),
    ".tar": "webdataset",
    ".parquet": "parquet",
    **dict.fromkeys((".tif", ".tiff"), "tiff"),
    ".zarr": "zarr",
}
ZARR_FILES = ("zarr.json", ".zarray", ".zgroup")
"""One of these lies in every folder of a zarr store."""
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".avif")
_MOST = 200  # names that are looked at, to find a picture


def kind_of(path: Path) -> str | None:
    """The ``--dataset`` that reads a path; None where names do not tell."""
    if not path.is_dir():
        return KINDS.get(path.suffix.lower())
    if any((path / name).is_file() for name in ZARR_FILES):
        return "zarr"
    for suffix in (".npy", ".tar", ".parquet"):
        if any(path.glob(f"*{suffix}")):
            return KINDS[suffix]
    names = _first(path)
    below = [name for part in names[:10] if (path / part).is_dir() for name in _first(path / part)]
    found = any(name.lower().endswith(PICTURES) for name in [*names, *below])
    return "folder" if found else None


def _first(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in islice(folder.iterdir(), _MOST)]
    except OSError:
        return []
