"""The work: every piece once, by whichever process; the result put together when all are there.

Finished pieces lie in ``.OUT.partial/KEY/``, each whole or not at all, where KEY follows from
the model, the rows and what is asked for. A job that was killed, or another task of an array,
goes on with the pieces that are missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.order import World
from data_pipeline.progress import Progress
from data_pipeline.write.building import building_site, site_of
from vae_dist.encode.outputs import Columns, Output
from vae_dist.encode.rows import Chunk, Piece, Rows

Compute = Callable[[Chunk], Columns]


@dataclass(frozen=True)
class Share:
    """Which pieces are this process's: every process of every task of an array has its own.

    Attributes
    ----------
    world : World
        The processes of this task.
    task, tasks : int
        This task, of how many; they begin at 0.
    """

    world: World
    task: int = 0
    tasks: int = 1

    def of(self, pieces: list[Piece]) -> list[Piece]:
        """This process's pieces."""
        return pieces[self.task + self.tasks * self.world.rank :: self.tasks * self.world.size]


@dataclass(frozen=True)
class Job:
    """Rows, what to compute of them, and where it goes.

    Attributes
    ----------
    rows : Rows
    compute : callable
        Columns of a chunk.
    chunk : int
        Rows that are computed at once.
    key : str
        SHA-256 over everything that decides the result.
    output : Output
    about : dict
        Kept with the result: run, images, settings.
    """

    rows: Rows
    compute: Compute
    chunk: int
    key: str
    output: Output
    about: dict[str, Any]

    @property
    def parts(self) -> Path:
        """Where finished pieces lie."""
        return site_of(self.output.path) / self.key[:16]

    def is_done(self, overwrite: bool) -> bool:
        """Whether the result is there already.

        Raises
        ------
        UserError
            If something else lies in its place and `overwrite` is false.
        """
        out = self.output.path
        if not out.exists():
            return False
        if self.output.key_of_present() == self.key:
            return True
        if overwrite and self.output.is_ours():
            return False
        raise UserError(
            f"--out {out}: exists and holds something else; give another --out"
            + (", or --overwrite True" if self.output.is_ours() else "")
        )

    def missing(self) -> list[Piece]:
        """Pieces that nobody has finished."""
        return [p for p in self.rows.pieces() if not self.output.holds(self.parts, p)]

    def work(self, share: Share, progress: Progress) -> int:
        """Compute this process's missing pieces; returns how many rows they had."""
        mine = share.of(self.rows.pieces())
        missing = [piece for piece in mine if not self.output.holds(self.parts, piece)]
        total = sum(piece.count for piece in mine)
        done = total - sum(piece.count for piece in missing)
        if done:
            progress.say(f"resuming: {done:,} of {total:,} rows are there already")
        began, task = done, f"writing {self.output.path}"
        with files_of_user(f"--out {self.output.path}: cannot be written"):
            self.parts.mkdir(parents=True, exist_ok=True)
        columns: list[Columns] = []
        with ThreadPoolExecutor(1, "write") as writer:  # while the next piece is computed
            writing: Future[None] | None = None
            # Read here, not ahead in a thread: both would wait for Python's lock, and torch's own
            # threads for the core that reading takes.
            for piece, chunk in self._chunks(missing):
                if chunk is not None:
                    columns.append(self.compute(chunk))
                    done += len(chunk)
                    progress.advance(task, done, total)
                    continue
                if writing is not None:
                    writing.result()
                writing, columns = writer.submit(self._keep, piece, columns), []
            if writing is not None:
                writing.result()
        return done - began

    def _keep(self, piece: Piece, columns: list[Columns]) -> None:
        joined = {name: np.concatenate([part[name] for part in columns]) for name in columns[0]}
        with files_of_user(f"--out {self.output.path}: cannot be written"):
            self.output.keep(self.parts, piece, joined)

    def _chunks(self, pieces: list[Piece]) -> Iterator[tuple[Piece, Chunk | None]]:
        """The chunks of some pieces; after those of a piece, None."""
        for piece in pieces:
            for chunk in self.rows.chunks(piece, self.chunk):
                yield piece, chunk
            yield piece, None

    def finish(self, overwrite: bool, progress: Progress) -> int:
        """Put the result together if all pieces are there; returns how many are missing.

        Of several tasks that end at the same time one does it, under a lock.
        """
        if self.output.path.exists() and self.output.key_of_present() == self.key:
            return 0
        missing = self.missing()
        if missing:
            return len(missing)
        started = time.perf_counter()
        with (
            files_of_user(f"--out {self.output.path}: cannot be written"),
            building_site(self.output.path) as partial,
        ):
            if self.is_done(overwrite):  # another task was faster
                return 0
            self.output.join(self.rows, self.parts, partial, {"key": self.key, **self.about})
        progress.say(f"{self.output.path}: put together in {time.perf_counter() - started:.1f} s")
        return 0
