"""The figures of a study's trainings, from one evaluation for each data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evaluation.evaluation import evaluate
from evaluation.results.records import TEST_FIGURE, Results
from evaluation.settings import EvaluateConfig
from launch.ablate.study import FIGURES, METHODS, Study
from launch.sweep.trainings import Training

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
    recon: list[float] = field(default_factory=list)
    """The distortion: reconstruction from a drawn z, nats an image."""
    kl: list[float] = field(default_factory=list)
    """The rate, nats an image."""
    parameters: int | None = None
    minutes: list[float] = field(default_factory=list)
    """Of each training, for its steps up to the checkpoint that was evaluated."""

    def of(self, figure: str) -> list[float]:
        """The values of a figure."""
        values: list[float] = getattr(self, figure)
        return values


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
        cells[method] = Cell([], values)
    return {name: cell for name, cell in cells.items() if cell.ssim or cell.knn}


def _of_runs(results: Results, names: Sequence[str]) -> Cell:
    infos = [info for name in names for info in results.runs if info.name == name]
    found: dict[str, list[float]] = {figure: [] for figure in FIGURES}
    for info in infos:
        wanted: dict[str, dict[str, Any]] = {
            figure: KNN if figure == "knn" else {"metric": figure, "split": "test"}
            for figure in FIGURES
        }
        for figure, fields in wanted.items():
            rows = results.find(**fields, method="vae", run=info.name)
            found[figure] += [row.value for row in rows if row.value is not None]
    seconds = [info.training_seconds for info in infos if info.training_seconds is not None]
    return Cell(
        **found,
        parameters=infos[0].num_parameters if infos else None,
        minutes=[each / 60 for each in seconds],
    )
