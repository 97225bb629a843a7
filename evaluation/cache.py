"""What was computed before, by the content that it follows from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from evaluation.files import read_arrays, write_arrays, write_text

VERSION = 7  # of the computations: raise it when the same inputs would give other figures
DIGEST = "sha256"

Shape = tuple[int | None, ...]  # None: any size


class Cache:
    """A folder of arrays and records, named by the hash of their inputs.

    Each file also holds a hash of its content and of its name; one that does not fit is
    computed again, and that is said. Several processes may share the folder: a file is written
    beside and renamed.

    Parameters
    ----------
    folder : Path
    fresh : bool
        Find nothing, so that all is computed again.
    tell : callable
        Given one line for each damaged file.
    """

    def __init__(
        self,
        folder: Path,
        *,
        fresh: bool = False,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.folder, self.fresh, self.tell = folder, fresh, tell

    @staticmethod
    def key(*parts: Any) -> str:
        """The name of what follows from `parts`, plain values that JSON can hold."""
        text = json.dumps([VERSION, *parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def arrays(
        self, kind: str, key: str, shapes: Mapping[str, Shape] | None = None
    ) -> dict[str, np.ndarray] | None:
        """Arrays kept under a key, or None.

        Parameters
        ----------
        kind, key : str
        shapes : mapping of str to tuple, optional
            Arrays that must be there, finite and of these shapes.
        """
        path = self.folder / f"{kind}-{key}.npz"
        if self.fresh or not path.is_file():
            return None
        try:
            found = read_arrays(path)
            if str(found.pop(DIGEST, "")) != _digest_of_arrays(path.name, found):
                raise UserError(f"{path}: another content than was written")
            for name, shape in (shapes or {}).items():
                check_array(found.get(name), shape, f"{path}: {name}")
        except UserError as error:
            self.tell(f"cache: {error}; computed again")
            return None
        return found

    def keep_arrays(self, kind: str, key: str, arrays: dict[str, np.ndarray]) -> None:
        """Keep arrays under a key."""
        path = self.folder / f"{kind}-{key}.npz"
        write_arrays(path, arrays | {DIGEST: np.array(_digest_of_arrays(path.name, arrays))})

    def forget(self, kind: str, key: str) -> None:
        """Remove a record."""
        (self.folder / f"{kind}-{key}.json").unlink(missing_ok=True)

    def record(
        self, kind: str, key: str, check: Callable[[Any], object] = lambda record: None
    ) -> Any:
        """A record kept under a key, or None; `check` raises `UserError` for another structure."""
        path = self.folder / f"{kind}-{key}.json"
        if self.fresh or not path.is_file():
            return None
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            if held[DIGEST] != _digest_of_record(path.name, held["record"]):
                raise UserError(f"{path}: another content than was written")
            check(held["record"])
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            named = isinstance(error, UserError)
            reason = str(error) if named else f"{path}: damaged ({type(error).__name__})"
            self.tell(f"cache: {reason}; computed again")
            return None
        return held["record"]

    def keep_record(self, kind: str, key: str, record: Any) -> None:
        """Keep a record, anything JSON holds, under a key."""
        path = self.folder / f"{kind}-{key}.json"
        held = {DIGEST: _digest_of_record(path.name, record), "record": record}
        write_text(path, json.dumps(held))


def check_array(array: np.ndarray | None, shape: Shape, where: str) -> None:
    """Refuse an array that is missing, of another shape, or not finite."""
    if array is None:
        raise UserError(f"{where} is missing")
    fits = len(array.shape) == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits:
        expected = " x ".join("any" if size is None else str(size) for size in shape)
        raise UserError(f"{where} has shape {array.shape}, expected {expected}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UserError(f"{where} is not finite")


def _digest_of_arrays(file: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256(file.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _digest_of_record(file: str, record: Any) -> str:
    text = json.dumps([file, record], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
