"""The figures of a study's trainings, from one evaluation for each data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_pipeline.records import read_json
from evaluation.evaluation import evaluate
from evaluation.results.records import TEST_FIGURE, Results
from evaluation.settings import EvaluateConfig
from launch.ablate.study import FIGURES, METHODS, Study
from launch.sweep.trainings import Training

UNIFORM: dict[str, Any] = {"weights": TEST_FIGURE["weights"]}
BY_LABEL: dict[str, dict[str, Any]] = {
    "knn": {"metric": TEST_FIGURE["metric"], "k": 10, **UNIFORM},
    "knn_all": {"metric": "knn_all_test_accuracy", "k": 5, **UNIFORM},
}
"""KNN's figures among the rows of an evaluation, which has them for one number of labels."""


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
    knn_all: list[float] = field(default_factory=list)
    nll: list[float] = field(default_factory=list)
    parameters: int | None = None
    latents: int | None = None
    minutes: list[float] = field(default_factory=list)
    """Of each training, for its steps up to the checkpoint that was evaluated."""
    machines: list[str] = field(default_factory=list)
    """What each training ran on."""

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
    compared |= {record.row for record in study.records}
    methods = [method for method in METHODS if method in compared]
    paths = {row: [runs_dir / run.name for run in runs] for row, runs in done.items()}
    bound = study.rows_with("nll")  # which is dear: no other row has it
    parts: list[tuple[str, set[str], list[str], dict[str, Any]]] = [
        ("-nll", paths.keys() & bound, [], vars(study.importance)),
        ("", paths.keys() - bound, methods, {}),
    ]
    cells: dict[str, Cell] = {}
    for suffix, rows, others, settings in parts:
        if not rows and not others:
            continue
        config = EvaluateConfig(
            runs=tuple(path for row in paths if row in rows for path in paths[row]),
            data=data.path,
            protocol="all_labels" if study.rows_with("knn_all") else "quick",
            methods=(*others, *(["vae"] if rows else [])),
            dims=(2, 10) if "panels" in study.pictures and others else (10,),
            out=runs_dir / "evaluations" / f"{study.name}-{data.name}{suffix}",
            report=False,
            **settings,
        )
        results = evaluate(config, device=device, tell=tell)
        assert results is not None
        for failure in results.failed:
            tell(f"warning: {failure.run}: {failure.error}")
        cells |= {row: _of_runs(results, paths[row]) for row in paths if row in rows}
        cells |= {method: _of_method(results, method) for method in others}
    return {name: cells[name] for name in (*paths, *methods) if _measured(cells[name])}


def _measured(cell: Cell) -> bool:
    return any(cell.of(figure) for figure in FIGURES)


def _of_method(results: Results, method: str) -> Cell:
    """PCA's or UMAP's figures, over the samples of labels where there are several."""
    found: dict[str, Any] = {
        figure: [
            value
            for row in results.find(**fields, method=method, dim=10)
            for value in row.values or []
        ]
        for figure, fields in BY_LABEL.items()
    }
    return Cell(ssim=[], **found)


def _of_runs(results: Results, paths: Sequence[Path]) -> Cell:
    infos = [info for path in paths for info in results.runs if info.path == str(path)]
    found: dict[str, list[float]] = {figure: [] for figure in FIGURES}
    for info in infos:
        for figure in FIGURES:
            fields = BY_LABEL.get(figure, {"metric": figure, "split": "test"})
            rows = results.find(**fields, method="vae", run=info.name)
            found[figure] += [row.value for row in rows if row.value is not None]
    seconds = [info.training_seconds for info in infos if info.training_seconds is not None]
    return Cell(
        **found,
        parameters=infos[0].num_parameters if infos else None,
        latents=infos[0].latent_size if infos else None,
        minutes=[each / 60 for each in seconds],
        machines=[machine_of(Path(info.path)) for info in infos],
    )


def machine_of(run: Path) -> str:
    """What a run was trained on, by its ``environment.json``."""
    path = run / "environment.json"
    said = read_json(path) if path.is_file() else {}
    device, processes = said.get("device"), said.get("world_size") or 1
    if device is None:
        return "a machine that is not known"
    if device == "cpu":
        return f"{said.get('cpus')} CPU cores"
    return f"{processes} x {device}" if processes > 1 else str(device)
