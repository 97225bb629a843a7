"""``vae-dist ablate``: train a study's rows over seeds, evaluate them, and judge its statements."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from data_pipeline.checks import check_fields
from data_pipeline.errors import UserError, nearest
from launch.ablate.reading import read_study
from launch.ablate.study import Study
from launch.ablate.trained import check_settings, is_done
from launch.config import parse
from launch.parts import PartOf, part_of
from launch.sweep.carry_out import carry_out

DESCRIPTION = """Train every row of a study over several seeds on one or more data sets, evaluate them, and
say which of the study's statements hold.

Trainings that are done are not repeated, and evaluations are kept: a second run computes only what is
missing. Several tasks of a Slurm array share the work by --part."""


@dataclasses.dataclass(kw_only=True)
class AblateConfig:
    """Which study, on which data."""

    study: str = "article2018"
    """A study that comes with the program, or a TOML file."""
    data: tuple[str, ...] = ()
    """Prepared data folders."""
    rows: tuple[str, ...] = ()
    """Only these rows; without the flag all of them."""
    seeds: tuple[int, ...] = ()
    """Other seeds than the study's."""
    epochs: int = 0
    """Another number of epochs than the study's, for a quick look; 0: the study's."""
    runs_dir: Path = Path("runs/ablate")
    """Folder of the runs and evaluations."""
    part: Annotated[str, PartOf()] = "0/1"
    """Which trainings are this task's, as in 3/8, counted from 0; what is evaluated is all that is
    done."""
    launcher: str = ""
    """Words that start a training on several processes, as in "torchrun --nproc-per-node 4"."""
    train: bool = True
    """False: only evaluate what is there."""
    write: Path | None = None
    """A Markdown page to put the tables into, as docs/results.md; pictures go to the folder images
    beside it."""
    list: bool = False
    """Only print the trainings, and which of them are done."""
    json: bool = False
    """Print statements, verdicts and figures as one JSON object, and nothing else, to stdout."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist ablate ARGV``; returns the exit code."""
    (config,) = parse("ablate", [AblateConfig], argv, DESCRIPTION)
    study = _chosen(read_study(config.study), config)
    if not config.data:
        raise UserError("--data: give one prepared data folder or more")
    from data_pipeline.folder import open_data
    from launch.ablate.figures import DataSet

    sets = [DataSet(open_data(path).manifest.name, path) for path in config.data]
    trainings = {
        data: {row.name: [study.training(row, seed, data.path, data.name) for seed in study.seeds]
               for row in study.rows_on(data.name)}
        for data in sets
    }  # fmt: skip
    everything = [each for rows in trainings.values() for runs in rows.values() for each in runs]
    if config.list:
        for training in everything:
            state = "done" if is_done(config.runs_dir, training) else "missing"
            print(f"{state:7}  {training.name}")
        return 0
    code = 0
    if config.train:
        task, tasks = part_of(config.part)
        code = carry_out(
            everything[task::tasks],
            config.runs_dir,
            config.launcher,
            sys.stderr if config.json else None,
        )
        if code == 75:
            return code
    return max(code, _evaluate(study, sets, trainings, config))


def _chosen(study: Study, config: AblateConfig) -> Study:
    """The study as the flags change it."""
    names = [row.name for row in study.rows]
    for name in config.rows:
        if name not in names:
            raise UserError(f"--rows {name}: no such row; {nearest(name, names)}")
    rows = [row for row in study.rows if not config.rows or row.name in config.rows]
    seeds = list(config.seeds) or study.seeds
    name = study.name
    if config.epochs:
        name += f"-{config.epochs}epochs"
        more = {"epochs": config.epochs}
        rows = [dataclasses.replace(row, settings=row.settings | more) for row in rows]
    return dataclasses.replace(study, name=name, rows=rows, seeds=seeds)


def _evaluate(study: Study, sets: Any, trainings: Any, config: AblateConfig) -> int:
    import torch

    from launch.ablate.figures import Cell, measure
    from launch.ablate.page import page, table, verdicts, write_page
    from launch.ablate.pictures import Drawn, draw_pictures
    from launch.ablate.targets import outcomes
    from launch.evaluate import Progress

    device = "cuda" if torch.cuda.is_available() else "cpu"
    cells: dict[str, dict[str, Cell]] = {}
    drawn: dict[str, list[Drawn]] = {}
    for data in sets:
        done = {
            row: found
            for row, runs in trainings[data].items()
            if (found := [each for each in runs if is_done(config.runs_dir, each)])
        }
        for found in done.values():
            check_settings(config.runs_dir, found)
        if done:
            tell = Progress(sys.stderr)
            cells[data.name] = measure(study, data, done, config.runs_dir, tell, device)
            if config.write is not None and study.pictures:
                images = config.write.parent / "images"
                drawn[data.name] = draw_pictures(
                    study, data.name, cells[data.name], done, config.runs_dir, images
                )
    if not any(cells.values()):
        raise UserError(
            f"--runs-dir {config.runs_dir}: no training of {study.name} there is done and can be read"
        )
    found = verdicts(study, cells)
    if config.write is not None:
        write_page(config.write, study.name, page(study, cells, _machine(), drawn))
    if config.json:
        rows = [
            {"statement": s.text, "verdict": verdict, "figures": text} for s, verdict, text in found
        ]
        figures = {
            data: {name: dataclasses.asdict(cell) for name, cell in each.items()}
            for data, each in cells.items()
        }
        records = [
            {
                **dataclasses.asdict(each.record),
                "data": each.data,
                "values": each.values,
                "verdict": each.verdict,
            }
            for each in outcomes(study, cells)
        ]
        said = {"study": study.name, "statements": rows, "records": records, "figures": figures}
        print(json.dumps(said, indent=1))
        return 0
    judged = [(statement.text, verdict) for statement, verdict, _ in found]
    judged += [
        (f"{each.record.text} ({each.data})", each.verdict) for each in outcomes(study, cells)
    ]
    print(table(judged) if judged else page(study, cells, _machine()))
    if config.write is not None:
        print(f"tables: {config.write}")
    return 0


def _machine() -> str:
    """Where and with what the figures were made, in a sentence."""
    import torch

    gpu = f" and {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""
    return (
        f"{os.cpu_count()} cores ({platform.machine()}){gpu}, Python {platform.python_version()}, "
        f"torch {importlib.metadata.version('torch')}, {time.strftime('%d %B %Y')}."
    )
