"""``vae-dist sweep``: a training for every combination of settings, and one table of all.

What a run is, is read from its folder alone: a sweep that was killed resumes with the trainings
that are not done, and tasks that share a sweep need not know of each other.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from data_pipeline.checks import AtLeast, check_fields
from data_pipeline.errors import UserError
from data_pipeline.redact import shown
from data_pipeline.remote.reading import is_remote
from launch.config import parse
from launch.parts import PartOf, part_of
from launch.sweep.carry_out import carry_out
from launch.sweep.runs import best_of
from launch.sweep.table import make_table
from launch.sweep.trainings import (
    Training,
    check_keys,
    check_training,
    flags_of,
    read_grid,
    read_tables,
)

DESCRIPTION = """Train every combination of the settings in a TOML file, and write one table.

A file has a table [grid], whose values are lists, and may have [fixed], whose values are the same in
every training; keys are flags of vae-dist train. Trainings that are done are not repeated. With a
table [search] in place of [grid] optuna chooses the settings (docs/training.md)."""


@dataclasses.dataclass(kw_only=True)
class SweepConfig:
    """Which trainings, and how they are started."""

    grid: Path
    """A TOML file with [grid] or [search], and [fixed]."""
    name: str = ""
    """What the names of the runs begin with; the file's name if not given."""
    runs_dir: str = "runs"
    """Folder of the runs: a path, or an address that each is copied to; the table is NAME.csv in it."""
    trials: Annotated[int, AtLeast(1)] = 20
    """Of a [search]: how many trainings, those of all tasks together."""
    part: Annotated[str, PartOf()] = "0/1"
    """Which trainings are this task's, as in 3/8, counted from 0."""
    launcher: str = ""
    """Words that start a training on several processes, as in "torchrun --nproc-per-node 4"."""
    list: bool = False
    """Only print the trainings, a line each, as slurm/ablation.sbatch takes them."""
    table: bool = False
    """Only write the table of what is there."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist sweep ARGV``; returns the exit code."""
    (config,) = parse("sweep", [SweepConfig], argv, DESCRIPTION)
    name = config.name or config.grid.stem
    tables = read_tables(config.grid)
    if "search" in tables:
        return search(tables, name, config)
    trainings = read_grid(config.grid, name)
    if config.list:
        for training in trainings:
            print(training.name, shlex.join(training.flags))
        return 0
    code = 0
    if not config.table:
        task, tasks = part_of(config.part)
        code = carry_out(trainings[task::tasks], config.runs_dir, config.launcher)
    make_table(trainings, name, config.runs_dir)
    return code


def search(tables: dict[str, Any], name: str, config: SweepConfig) -> int:
    """Let optuna choose the settings of each training; the exit code."""
    from launch.sweep.search import Search

    where = f"--grid {config.grid}"
    space, fixed = tables["search"], tables.get("fixed", {})
    if "grid" in tables or not isinstance(space, dict) or not space or not isinstance(fixed, dict):
        raise UserError(f"{where}: give one table, [grid] or [search], and [fixed]")
    if config.list or config.part != "0/1":
        raise UserError(
            f"{where}: [search] has no list and no parts: start the same command as often as you like"
        )
    check_keys(space, fixed, config.grid)
    if is_remote(config.runs_dir):
        raise UserError(
            f"--runs-dir {shown(config.runs_dir)}: a [search] keeps its journal in a folder that its tasks "
            "share; Fix: give a path"
        )
    study = Search(space, Path(config.runs_dir), name, where)

    def training_of(run: str, values: dict[str, Any]) -> Training:
        return Training(run, values, list(flags_of(fixed | values)))

    def train(run: str, values: dict[str, Any]) -> int:
        training = training_of(run, values)
        check_training(training, f"{where}: {run}")
        return carry_out([training], config.runs_dir, config.launcher)

    def loss(run: str) -> float | None:
        return best_of(config.runs_dir, run).get("loss")

    code = 0 if config.table else study.carry_out(config.trials, train, loss)
    if not study.tried():
        raise UserError(f"{where}: nothing was tried yet")
    make_table([training_of(*one) for one in study.tried()], name, config.runs_dir)
    return code
