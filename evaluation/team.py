"""Work of the first process that all processes share: neighbour graphs, and UMAP by dimension.

The first process gives out a job in a file, each process carries out its part, and the first one
joins the parts. The others wait in `Team.serve` until it dismisses them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.order import World
from evaluation.backends.choose import Backends
from evaluation.backends.cpu import Embedded, UmapSettings
from evaluation.backends.search import Graph, join_graph
from evaluation.files import read_arrays, write_arrays

Arrays = dict[str, np.ndarray]
GRAPH = ("train_index", "train_distance", "test_index", "test_distance")


class Team:
    """The processes of an evaluation, as those see it that make embeddings.

    Parameters
    ----------
    backends : Backends
    world : World, optional
    folder : Path, optional
        That all processes share; needed by more than one.
    wait : callable
        Returns when all processes have called it.
    """

    def __init__(
        self,
        backends: Backends,
        world: World | None = None,
        folder: Path | None = None,
        wait: Callable[[], None] = lambda: None,
    ) -> None:
        self.backends, self.world, self.wait = backends, world or World(), wait
        self.folder = folder or Path()
        self._rows: tuple[Any, Any] = (None, None)  # of the last search; UMAP follows on it

    def graph(self, train: Any, test: Any, k: int, seed: int) -> tuple[Graph, str, str | None]:
        """The neighbour graph of `Backends`, each process searching its cells."""
        if self.world.size == 1:
            return self.backends.run("graph", train, test, k, seed)
        own, other = (self.backends.to_host(part) for part in (train, test))
        layout = self.backends.cpu.layout(own, other, seed)
        job = {"train": own, "test": other, "k": np.array(k), "seed": np.array(seed), **layout}
        parts = self._share("graph", job)
        graph = join_graph(parts, layout)
        return graph, _joined(parts, "backend"), _joined(parts, "note") or None

    def umap(
        self, train: Any, test: Any, graph: Graph, wanted: Sequence[UmapSettings]
    ) -> tuple[list[Embedded], str, str | None]:
        """UMAP in each dimension, each on one of the processes."""
        if self.world.size == 1:
            return self.backends.run("umap", train, test, graph, wanted)
        settings = {
            f"settings/{name}": np.array([asdict(one)[name] for one in wanted])
            for name in asdict(wanted[0])
        }
        host = asdict(self.backends.to_host(graph))
        parts = self._share("umap", {**settings, **{k: np.array(v) for k, v in host.items()}})
        found = {name: part[name] for part in parts for name in part}
        embedded = [
            Embedded(
                self.backends.put(found[f"{one.dim}/train"]),
                self.backends.put(found[f"{one.dim}/test"]),
                *found[f"{one.dim}/seconds"].tolist(),
            )
            for one in wanted
        ]
        return embedded, _joined(parts, "backend"), _joined(parts, "note") or None

    def serve(self) -> None:
        """Carry out parts of jobs until there are no more; of all processes but the first."""
        while True:
            self.wait()
            job = read_arrays(self.folder / ".job.npz")
            if (kind := str(job.pop("kind"))) == "none":
                return
            try:
                write_arrays(self._part(self.world.rank), self._carry_out(kind, job, self.world))
            except Exception as error:  # the first process does it and says what is wrong
                print(f"{kind}: not done by this process: {error!r}", file=sys.stderr)
            self.wait()

    def dismiss(self) -> None:
        """End `serve` on the other processes."""
        if self.world.size > 1:
            write_arrays(self.folder / ".job.npz", {"kind": np.array("none")})
            self.wait()

    def clear(self) -> None:
        """Remove the last job, once all have read it."""
        (self.folder / ".job.npz").unlink(missing_ok=True)

    def _share(self, kind: str, job: Arrays) -> list[Arrays]:
        others = range(1, self.world.size)
        for rank in others:
            self._part(rank).unlink(missing_ok=True)
        write_arrays(self.folder / ".job.npz", {"kind": np.array(kind), **job})
        self.wait()
        parts = [self._carry_out(kind, job, self.world)]
        self.wait()
        for rank in others:
            part = self._part(rank)
            if part.is_file():
                parts.append(read_arrays(part))
                part.unlink()
            else:
                parts.append(self._carry_out(kind, job, World(rank, self.world.size)))
        return parts

    def _part(self, rank: int) -> Path:
        return self.folder / f".job-part-{rank}.npz"

    def _carry_out(self, kind: str, job: Arrays, world: World) -> Arrays:
        if kind == "graph":
            self._rows = self.backends.put(job["train"]), self.backends.put(job["test"])
            layout = {name: job[name] for name in ("near", "order", "train_cell", "test_cell")}
            found, where, note = self.backends.run(
                "graph_part", *self._rows, int(job["k"]), layout, world, int(job["seed"])
            )
        else:
            names = [name for name in job if name.startswith("settings/")]
            every = [
                UmapSettings(**{n.removeprefix("settings/"): job[n][i].item() for n in names})
                for i in range(len(job[names[0]]))
            ]
            wanted = every[world.rank :: world.size]
            found, where, note = {}, "", None
            if wanted:
                arrays = {name: job[name] for name in GRAPH}
                graph = Graph(**arrays, recall=float(job["recall"]), note=str(job["note"]))
                made, where, note = self.backends.run("umap", *self._rows, graph, wanted)
                for one, (own, other, *seconds) in zip(wanted, made, strict=True):
                    found[f"{one.dim}/train"] = self.backends.to_host(own)
                    found[f"{one.dim}/test"] = self.backends.to_host(other)
                    found[f"{one.dim}/seconds"] = np.array(seconds)
        return {**found, "backend": np.array(where), "note": np.array(note or "")}


def _joined(parts: list[Arrays], name: str) -> str:
    """What the processes say, each thing once."""
    return "; ".join(dict.fromkeys(filter(None, (str(part[name]) for part in parts))))
