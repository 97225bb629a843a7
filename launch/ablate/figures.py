"""The figures of a study's trainings, from one evaluation for each data set."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.evaluation import evaluate
from evaluation.results.records import TEST_FIGURE, Results
from evaluation.settings import EvaluateConfig
from launch.ablate.study import METHODS, Study
from launch.sweep import Training

KNN: dict[str, Any] = {"metric": TEST_FIGURE["metric"], "weights": TEST_FIGURE["weights"], "k": 10}
"""The figure ``knn`` among the rows of an evaluation, which has it for one number of labels."""


@dataclass(frozen=True)
class DataSet:
    """A prepared folder and the name by which results speak of it."""

    name: str
    path: str


@dataclass(frozen=True)
class Cell:
    """What the trainings of one row on one data set came to, in the order of their seeds."""

    ssim: list[float]
    knn: list[float]
    parameters: int | None
    minutes: float | None
    """Of one training, the median."""

    def of(self, figure: str) -> list[float]:
        """The values of a figure."""
        return self.knn if figure == "knn" else self.ssim


def measure(
    study: Study,
    data: DataSet,
    done: dict[str, list[Training]],
    runs_dir: Path,
    tell: Callable[[str], None],
    device: str,
) -> dict[str, Cell]:
    """Evaluate the trainings of a data set; what is known already comes from the cache.

    Parameters
    ----------
    study : Study
    data : DataSet
    done : dict of str to list of Training
        Row name to its finished trainings.
    runs_dir : Path
        Where the runs lie; the evaluation goes to its folder ``evaluations``.
    tell : callable
        Given one line at a time on what is done.
    device : str
        Where models run.

    Returns
    -------
    dict of str to Cell
        By row, and by method for pca and umap where a statement names them.
    """
    compared = {name for each in study.statements for name in (*each.rows, each.against)}
    methods = [method for method in METHODS if method in compared]
    config = EvaluateConfig(
        runs=tuple(runs_dir / training.name for each in done.values() for training in each),
        data=data.path,
        methods=(*methods, "vae"),
        dims=(10,),
        out=runs_dir / "evaluations" / f"{study.name}-{data.name}",
        report=False,
    )
    results = evaluate(config, device=device, tell=tell)
    assert results is not None
    for failure in results.failed:
        tell(f"warning: {failure.run}: {failure.error}")
    cells = {row: _of_runs(results, [run.name for run in runs]) for row, runs in done.items()}
    for method in methods:
        knn = results.find(**KNN, method=method, dim=10)
        values = [value for row in knn for value in row.values or []]
        cells[method] = Cell([], values, None, None)
    return {name: cell for name, cell in cells.items() if cell.ssim or cell.knn}


def _of_runs(results: Results, names: Sequence[str]) -> Cell:
    infos = [info for name in names for info in results.runs if info.name == name]
    ssim, knn = [], []
    for info in infos:
        (one,) = results.find("ssim", split="test", run=info.name, method="vae")
        found = results.find(**KNN, method="vae", run=info.name)
        ssim += [one.value] if one.value is not None else []
        knn += [row.value for row in found if row.value is not None]
    seconds = [info.training_seconds for info in infos if info.training_seconds is not None]
    return Cell(
        ssim,
        knn,
        infos[0].num_parameters if infos else None,
        statistics.median(seconds) / 60 if seconds else None,
    )
