"""Which library carries out a stage: the one place that decides.

``auto`` takes cuML where it works and the CPU for a stage where it does not, and says so once;
``cuml`` takes cuML or fails; ``cpu`` never looks for a GPU. That cuML can be imported proves
nothing, so it is made to compute something small.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from evaluation.backends.cpu import CpuBackend
from evaluation.backends.cuml import CumlBackend
from evaluation.stages import Stages

CHOICES = ("auto", "cuml", "cpu")
STAGES = ("standardise", "pca", "graph", "graph_part", "umap", "search", "trustworthiness")


class Backends:
    """Runs each stage where it can be run, and records where that was.

    Parameters
    ----------
    asked : str
        auto, cuml or cpu.
    tell : callable
        Given one line for each thing that did not work on the GPU, once.
    make_cuml : callable
        Makes the cuML backend.

    Raises
    ------
    ValueError
        For ``cuml`` where cuML does not work.
    """

    def __init__(
        self,
        asked: str = "auto",
        *,
        tell: Callable[[str], None] = lambda line: None,
        make_cuml: Callable[[], CumlBackend] = CumlBackend,
    ) -> None:
        self.asked, self.tell = asked, tell
        self.cpu = CpuBackend()
        self.cuml: CumlBackend | None = None
        self.reason, self.device = "asked for", "cpu"
        self._told: set[str] = set()
        if asked == "cpu":
            return
        try:
            backend = make_cuml()
            self.device = backend.probe()
            self.cuml, self.reason = backend, "computes"
        except Exception as error:  # without a GPU cuML fails in many ways
            self.reason = f"cuML does not work here ({_line(error)})"
            if asked == "cuml":
                raise UserError(
                    f"--backend cuml: {self.reason}; use a machine with a GPU and the gpu extra"
                    " (pip install 'vae-dist[gpu]'), or --backend cpu"
                ) from error

    @property
    def used(self) -> str:
        """Where stages are tried first."""
        return "cpu" if self.cuml is None else "cuml"

    def describe(self) -> dict[str, Any]:
        """For ``results.json``."""
        return {
            "asked": self.asked,
            "used": self.used,
            "reason": self.reason,
            "device": self.device,
            "fallbacks": sorted(self._told),
        }

    def versions(self) -> dict[str, str]:
        """Versions of all libraries that may have computed something."""
        return {**self.cpu.versions(), **(self.cuml.versions() if self.cuml else {})}

    def stages(self) -> Stages:
        """A recorder that measures memory where the stages run."""
        return Stages(device="cuda" if self.cuml else "cpu", tell=self.tell)

    def run(self, stage: str, *arguments: Any) -> tuple[Any, str, str | None]:
        """Carry out a stage.

        Parameters
        ----------
        stage : str
            One of `STAGES`, a method of the backends.
        *arguments
            Handed to it; arrays may lie on the device or the host.

        Returns
        -------
        result, backend, note
            The note says why it fell back, or is None.
        """
        assert stage in STAGES
        note = None
        if self.cuml is not None:
            try:
                return getattr(self.cuml, stage)(*arguments), "cuml", None
            except Exception as error:  # no memory, an option it lacks, a driver that went away
                note = f"{stage} on the CPU: cuML failed ({_line(error)})"
                if self.asked == "cuml":
                    raise UserError(
                        f"--backend cuml: {stage} failed ({_line(error)}); "
                        "--backend auto would carry on with the CPU"
                    ) from error
            if note not in self._told:
                self._told.add(note)
                self.tell(note)
        return getattr(self.cpu, stage)(*map(_to_host, arguments)), "cpu", note

    def put(self, array: Any) -> Any:
        """An array where the stages run first."""
        return array if self.cuml is None else self.cuml.put(array)

    def take(self, array: Any, rows: Any) -> Any:
        """Rows of an array, where it lies."""
        if self.cuml is not None and hasattr(array, "get"):
            return array[self.cuml.cupy.asarray(rows)]
        return array[rows]

    def beside(self, parts: list[Any]) -> Any:
        """Columns of arrays next to each other."""
        if self.cuml is not None and all(hasattr(part, "get") for part in parts):
            return self.cuml.cupy.concatenate(parts, axis=1)
        return self.put(np.concatenate([_to_host(part) for part in parts], axis=1))

    def to_host(self, array: Any) -> Any:
        """A numpy array, wherever it lay."""
        return _to_host(array)


def _to_host(value: Any) -> Any:
    """Arrays of the GPU, also within a graph, as numpy arrays; anything else as it is."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(
            value, **{f.name: _to_host(getattr(value, f.name)) for f in fields(value) if f.init}
        )
    return value.get() if hasattr(value, "get") and hasattr(value, "dtype") else value


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__
