"""From a run's folder to its copy in an object store: what the store lacks, each part in its order."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from vae_dist.mirror.fetch import META, PARTS, sha256
from vae_dist.mirror.index import Index, step_of, write_index
from vae_dist.mirror.lock import NAME as LOCK
from vae_dist.mirror.store import Store
from vae_dist.run.checkpoint import CheckpointConfig, checkpoint_path, read_meta
from vae_dist.run.which_checkpoint import linked, list_checkpoints

FILES = (*PARTS, META)
"""Of a checkpoint, in the order in which they are written."""


class Copier:
    """Copies checkpoints and logs, and knows what was copied.

    Parameters
    ----------
    folder : Path
        The run folder on this machine.
    keep : CheckpointConfig
        Which checkpoints are kept, there as here.
    check : callable
        Raises if another training has taken the run over; asked before the index is written.

    Attributes
    ----------
    index : Index
        As the store has it.
    """

    def __init__(self, folder: Path, keep: CheckpointConfig, check: Callable[[], None]) -> None:
        self.folder, self.keep, self._check = folder, keep, check
        self.index = Index()
        self._sent_logs: dict[str, tuple[int, int]] = {}
        self._to_remove: list[str] = []

    def copy_checkpoints(self, store: Store) -> None:
        """Copy what the store lacks, newest first, until there is nothing more."""
        while (checkpoint := self._next()) is not None:
            self._copy_checkpoint(store, checkpoint)
        self._publish(store, self.index)

    def _next(self) -> Path | None:
        """What to copy next: the newest that the store lacks, then the best, then the others."""
        checkpoints = self.folder / "checkpoints"
        here, best = list_checkpoints(checkpoints)[::-1], linked(checkpoints, "best")
        for checkpoint in here[:1] + sorted(here[1:], key=lambda path: path != best):
            meta = _read(checkpoint / META)
            if meta and self.index.checkpoints.get(checkpoint.name) != sha256(meta):
                return checkpoint
        return None

    def _copy_checkpoint(self, store: Store, checkpoint: Path) -> None:
        """Copy one, from links of its own: the run may remove it meanwhile."""
        beside = self.folder / f".copying-{checkpoint.name}"
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir()
        try:
            try:
                for part in FILES:
                    _hold(checkpoint / part, beside / part)
            except FileNotFoundError:  # removed by the run
                return
            meta = (beside / META).read_bytes()
            there = f"checkpoints/{checkpoint.name}"
            if checkpoint.name in self.index.checkpoints:  # the same step again, another content
                self._publish(store, self.index.without([checkpoint.name]))
                store.remove([f"{there}/{META}"])
            self._to_remove.append(checkpoint.name)  # unless it becomes whole
            for part in PARTS:
                store.put(beside / part, f"{there}/{part}")
            store.put(beside / META, f"{there}/{META}")
            self.copy_logs(store)  # up to this step at least
            self._check()
            new = dataclasses.replace(
                self.index,
                checkpoints=self.index.checkpoints | {checkpoint.name: sha256(meta)},
                epochs=self.index.epochs | {checkpoint.name: read_meta(beside).epoch},
            )
            self._publish(store, new)
        finally:
            shutil.rmtree(beside, ignore_errors=True)

    def _publish(self, store: Store, index: Index) -> None:
        """Write the index, with the run's own best, and remove what is no longer kept."""
        best = linked(self.folder / "checkpoints", "best")
        named = best.name if best is not None and best.name in index.checkpoints else index.best
        last = max(index.checkpoints, key=step_of, default=None)
        index = dataclasses.replace(index, last=last, best=named)
        gone = [name for name in index.checkpoints if not self._kept(index, name)]
        index = dataclasses.replace(
            index,
            checkpoints={n: v for n, v in index.checkpoints.items() if n not in gone},
            epochs={n: v for n, v in index.epochs.items() if n not in gone},
        )
        if index != self.index:
            self._to_remove += gone
            write_index(store, index)
            self.index = index
        while self._to_remove:  # also what could not be removed, or not be copied whole, before
            if (name := self._to_remove[0]) not in index.checkpoints:
                store.remove(f"checkpoints/{name}/{part}" for part in (META, *PARTS))
            self._to_remove.pop(0)

    def _kept(self, index: Index, name: str) -> bool:
        if name in (index.last, index.best, *index.newest_first()[: self.keep.keep_last]):
            return True
        if (checkpoint_path(self.folder / "checkpoints", step_of(name)) / META).is_file():
            return True
        every, epoch = self.keep.keep_every_epochs, index.epochs.get(name, 0.0)
        return bool(every) and epoch > 0 and epoch % every == 0

    def copy_logs(self, store: Store) -> None:
        """Copy the files beside the checkpoints that have changed."""
        for path in self._logs():
            name = path.relative_to(self.folder).as_posix()
            try:
                status = path.stat()
                seen = status.st_size, status.st_mtime_ns
                if self._sent_logs.get(name) != seen:
                    store.put(path, name)
                    self._sent_logs[name] = seen
            except FileNotFoundError:  # exchanged for a new one this moment
                if path.exists():
                    raise

    def _logs(self) -> Iterator[Path]:
        for path in sorted(self.folder.rglob("*")):
            parts = path.relative_to(self.folder).parts
            apart = parts[0] in ("checkpoints", LOCK) or parts[0].startswith("abandoned-")
            if not apart and not any(part.startswith(".") for part in parts) and path.is_file():
                yield path

    def missing(self) -> str:
        checkpoint = self._next()
        return f"checkpoint {checkpoint.name}" if checkpoint is not None else ""


def _hold(path: Path, link: Path) -> None:
    try:
        os.link(path, link)
    except FileNotFoundError:
        raise
    except OSError:  # a file system without hard links
        shutil.copyfile(path, link)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""
