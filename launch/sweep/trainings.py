"""Which trainings a grid of settings asks for, each checked before the first one starts."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import UserError
from launch.config import parse
from launch.setting_files import read_toml

if TYPE_CHECKING:
    from vae_dist.train.settings import Settings


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


def read_grid(path: Path, name: str) -> list[Training]:
    """Every combination, in the order of the file.

    Raises
    ------
    UserError
        If the file is not a grid, or a combination is not what ``vae-dist train`` takes.
    """
    tables = read_tables(path)
    grid, fixed = tables.get("grid", {}), tables.get("fixed", {})
    if not isinstance(grid, dict) or not isinstance(fixed, dict) or not grid:
        raise UserError(f"--grid {path}: needs a table [grid], as in latent_size = [10, 20]")
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise UserError(f"--grid {path}: {key} in [grid] must be a list of values")
    check_keys(grid, fixed, path)
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


def read_tables(path: Path) -> dict[str, Any]:
    """The tables of a grid's file: [grid] or [search], and [fixed]."""
    tables = read_toml(path, f"--grid {path}")
    if odd := sorted(set(tables) - {"grid", "fixed", "search"}):
        raise UserError(f"--grid {path}: {odd[0]} is neither [grid] nor [fixed]")
    return tables


def check_keys(grid: dict[str, Any], fixed: dict[str, Any], path: Path) -> None:
    """Refuse settings that stand twice, or that the sweep sets itself."""
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


def check_training(training: Training, where: str) -> Settings:
    """Refuse before the first training what the last one would be refused for.

    Returns
    -------
    Settings
        With which it would be trained.

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
        return Settings(**dict(zip(owners, parsed[2:], strict=True)))
    except UserError as error:
        raise UserError(f"{where}: {error}") from error
