"""Arrays, texts and tables, each written whole or not at all."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import numpy as np


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an .npz, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    beside.replace(path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read every array of an .npz; nothing in it is unpickled."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def write_csv(path: Path, columns: list[str], rows: list[dict[str, Any]]) -> None:
    """Write one line a row; keys that are no column are left out."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    beside.replace(path)
