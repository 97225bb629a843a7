"""``vae-dist sweep``: a training for every combination of settings, and one table of all.

What a run is, is read from its folder alone: a sweep that was killed resumes with the trainings
that are not done, and tasks that share a sweep need not know of each other.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
import json
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, TextIO

from data_pipeline.checks import AtLeast, check_fields
from data_pipeline.errors import UserError, files_of_user
from launch.config import parse
from launch.parts import PartOf, part_of

DESCRIPTION = """Train every combination of the settings in a TOML file, and write one table.

A file has a table [grid], whose values are lists, and may have [fixed], whose values are the same in
every training; keys are flags of vae-dist train. Trainings that are done are not repeated. With a
table [search] in place of [grid] optuna chooses the settings (docs/training.md)."""

TRAIN = Path(__file__).parent / "train.py"
FIGURES = ("loss", "recon", "kl", "elbo", "ssim", "psnr")
STOPPED = 75


@dataclasses.dataclass(kw_only=True)
class SweepConfig:
    """Which trainings, and how they are started."""

    grid: Path
    """A TOML file with [grid] or [search], and [fixed]."""
    name: str = ""
    """What the names of the runs begin with; the file's name if not given."""
    runs_dir: Path = Path("runs")
    """Folder of the runs; the table is NAME.csv in it."""
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


@dataclasses.dataclass(frozen=True)
class Training:
    """One combination.

    Attributes
    ----------
    name : str
        Of its run.
    values : dict
        Its settings out of the grid.
    flags : list of str
        All its settings as words of a command line.
    """

    name: str
    values: dict[str, Any]
    flags: list[str]


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist sweep ARGV``; returns the exit code."""
    (config,) = parse("sweep", [SweepConfig], argv, DESCRIPTION)
    name = config.name or config.grid.stem
    tables = _tables(config.grid)
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
    make_table(trainings, name, config)
    return code


def make_table(trainings: Sequence[Training], name: str, config: SweepConfig) -> None:
    """Write and show what there is of some trainings."""
    rows = [describe(training, config.runs_dir / training.name) for training in trainings]
    path = config.runs_dir / f"{name}.csv"
    with files_of_user(f"--runs-dir {config.runs_dir}: cannot be written"):
        write_table(rows, path)
    show(rows)
    done = sum(row["state"] == "done" for row in rows)
    print(f"{done} of {len(rows)} trainings are done: {path}")


def search(tables: dict[str, Any], name: str, config: SweepConfig) -> int:
    """Let optuna choose the settings of each training; the exit code."""
    from launch.search import Search

    where = f"--grid {config.grid}"
    space, fixed = tables["search"], tables.get("fixed", {})
    if "grid" in tables or not isinstance(space, dict) or not space or not isinstance(fixed, dict):
        raise UserError(f"{where}: give one table, [grid] or [search], and [fixed]")
    if config.list or config.part != "0/1":
        raise UserError(
            f"{where}: [search] has no list and no parts: start the same command as often as you like"
        )
    _check_keys(space, fixed, config.grid)
    study = Search(space, config.runs_dir, name, where)

    def training_of(run: str, values: dict[str, Any]) -> Training:
        return Training(run, values, list(flags_of(fixed | values)))

    def train(run: str, values: dict[str, Any]) -> int:
        training = training_of(run, values)
        check_training(training, f"{where}: {run}")
        return carry_out([training], config.runs_dir, config.launcher)

    def loss(run: str) -> float | None:
        return _best(config.runs_dir / run).get("loss")

    code = 0 if config.table else study.carry_out(config.trials, train, loss)
    if not study.tried():
        raise UserError(f"{where}: nothing was tried yet")
    make_table([training_of(*one) for one in study.tried()], name, config)
    return code


def read_grid(path: Path, name: str) -> list[Training]:
    """Every combination, in the order of the file.

    Raises
    ------
    UserError
        If the file is not a grid, or a combination is not what ``vae-dist train`` takes.
    """
    tables = _tables(path)
    grid, fixed = tables.get("grid", {}), tables.get("fixed", {})
    if not isinstance(grid, dict) or not isinstance(fixed, dict) or not grid:
        raise UserError(f"--grid {path}: needs a table [grid], as in latent_size = [10, 20]")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"--grid {path}: {key} in [grid] must be a list of values")
    _check_keys(grid, fixed, path)
    found = []
    for values in itertools.product(*grid.values()):
        chosen = dict(zip(grid, values, strict=True))
        words = "-".join(f"{key}={value}" for key, value in chosen.items())
        safe = re.sub(r"[^\w.+=@-]", "_", f"{name}-{words}")
        found.append(Training(safe, chosen, list(flags_of(fixed | chosen))))
    names = [training.name for training in found]
    if double := next((n for n in names if names.count(n) > 1), None):
        raise UserError(f"--grid {path}: two trainings would be called {double}")
    for training in found:
        check_training(training, f"--grid {path}: {training.name}")
    return found


def _tables(path: Path) -> dict[str, Any]:
    with files_of_user(f"--grid {path}: cannot be read"):
        content = path.read_bytes()
    try:
        tables = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"--grid {path}: not a TOML file: {error}") from error
    if odd := sorted(set(tables) - {"grid", "fixed", "search"}):
        raise UserError(f"--grid {path}: {odd[0]} is neither [grid] nor [fixed]")
    return tables


def _check_keys(grid: dict[str, Any], fixed: dict[str, Any], path: Path) -> None:
    for key in ("name", "runs_dir", "resume", *(grid.keys() & fixed.keys())):
        if key in grid or key in fixed:
            raise UserError(f"--grid {path}: {key} " + _why(key))


def _why(key: str) -> str:
    return (
        "stands in [grid] and in [fixed]"
        if key not in ("name", "runs_dir", "resume")
        else "is set by the sweep itself; Fix: remove it"
    )


def flags_of(settings: dict[str, Any]) -> Iterator[str]:
    """Settings as words of a command line."""
    for key, value in settings.items():
        yield f"--{key.replace('_', '-')}"
        yield from map(str, value if isinstance(value, list) else [value])


def check_training(training: Training, where: str) -> None:
    """Refuse before the first training what the last one would be refused for.

    Raises
    ------
    UserError
        What is wrong, after `where` and a colon.
    """
    from launch.train import ModeConfig, TrainingDataConfig
    from vae_dist.train.settings import Settings

    owners: Any = {f.name: f.default_factory for f in dataclasses.fields(Settings)}
    words = [*training.flags, "--name", training.name]
    try:
        parsed = parse("train", [TrainingDataConfig, ModeConfig, *owners.values()], words)
        Settings(**dict(zip(owners, parsed[2:], strict=True)))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def carry_out(
    trainings: Sequence[Training], runs_dir: Path, launcher: str, out: TextIO | None = None
) -> int:
    """Train what is not done, one after the other; the command's exit code.

    A training that fails does not stop the others. A signal is handed on, and once that training
    has saved, the command ends with 75 too. What is said goes to `out`, else to stdout.
    """
    failed = 0
    for training in trainings:
        folder = runs_dir / training.name
        if _read(folder / "status.json").get("state") == "done":
            print(f"{training.name}: is done already", file=out, flush=True)
            continue
        start = [sys.executable, "-m", "launch.cli", "train"]
        if launcher:
            start = [*shlex.split(launcher), str(TRAIN)]
        where = ["--name", training.name, "--runs-dir", str(runs_dir), "--resume", "auto"]
        code = _run([*start, *training.flags, *where], out)
        said = "done" if code == 0 else f"exit code {code}"
        print(f"{training.name}: {said}", file=out, flush=True)
        if code == STOPPED or code < 0:
            return STOPPED
        failed += code != 0
    return 1 if failed else 0


def _run(words: list[str], out: TextIO | None) -> int:
    """A training as a process of its own, to which signals for the sweep are handed on."""
    with subprocess.Popen(words, stdout=out) as process:

        def hand_on(number: int, frame: FrameType | None) -> None:
            process.send_signal(number)

        handled = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
        former = {number: signal.signal(number, hand_on) for number in handled}
        try:
            return process.wait()
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)


def describe(training: Training, folder: Path) -> dict[str, Any]:
    """A row of the table: settings, state, and the figures of the best validation."""
    status = _read(folder / "status.json")
    row: dict[str, Any] = {"run": training.name, **training.values}
    row |= {"state": status.get("state", "not started"), "step": status.get("step")}
    best = _best(folder)
    return row | {name: best.get(name) for name in FIGURES}


def _best(folder: Path) -> dict[str, Any]:
    """The validation record of the checkpoint ``best``."""
    try:
        step = json.loads((folder / "checkpoints" / "best" / "meta.json").read_text())["step"]
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError, KeyError):
        return {}
    found = {}
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:  # cut by a kill
            continue
        if record.get("split") == "val" and record.get("step") == step:
            found = record
    return found


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """A CSV file that exists whole; several tasks may write it."""
    from data_pipeline.files import write_whole

    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(path, text.getvalue().encode())


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table on a terminal, lowest loss first."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in rows[0]:
        table.add_column(name)
    ordered = sorted(rows, key=lambda row: float("inf") if row["loss"] is None else row["loss"])
    for row in ordered:
        table.add_row(*(_cell(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
