"""What was computed before, by the content that it follows from."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.files import read_arrays, write_arrays, write_text

VERSION = 3  # of the computations: raise it when the same inputs would give other figures


class Cache:
    """A folder of arrays and records, named by the hash of their inputs.

    Several processes may share it: a file is written beside and renamed.

    Parameters
    ----------
    folder : Path
    fresh : bool
        Find nothing, so that all is computed again.
    """

    def __init__(self, folder: Path, *, fresh: bool = False) -> None:
        self.folder, self.fresh = folder, fresh

    @staticmethod
    def key(*parts: Any) -> str:
        """The name of what follows from `parts`, plain values that JSON can hold."""
        text = json.dumps([VERSION, *parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def arrays(self, kind: str, key: str) -> dict[str, np.ndarray] | None:
        """Arrays kept under a key, or None."""
        path = self.folder / f"{kind}-{key}.npz"
        if self.fresh or not path.is_file():
            return None
        try:
            return read_arrays(path)
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
            return None  # damaged: as if it were not there

    def keep_arrays(self, kind: str, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep arrays under a key."""
        write_arrays(self.folder / f"{kind}-{key}.npz", arrays)

    def record(self, kind: str, key: str) -> Any:
        """A record kept under a key, or None."""
        path = self.folder / f"{kind}-{key}.json"
        if self.fresh or not path.is_file():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def keep_record(self, kind: str, key: str, record: Any) -> None:
        """Keep a record, anything JSON holds, under a key."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_text(self.folder / f"{kind}-{key}.json", json.dumps(record))
