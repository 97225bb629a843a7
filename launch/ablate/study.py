"""A study: rows of settings, and the statements that they test, from one TOML file."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

from data_pipeline.checks import AtLeast, OneOf, check_fields
from data_pipeline.errors import UserError, files_of_user, nearest
from launch.setting_files import PRESETS, preset_path, read_settings
from launch.sweep.trainings import Training, check_training, flags_of

STUDIES = PRESETS / "ablation"
METHODS = ("pca", "umap")
"""What a statement may compare besides trained rows."""
FIGURES = {
    "ssim": "SSIM of reconstructions",
    "knn": "KNN accuracy (500 labels a class, k = 10)",
    "recon": "reconstruction from a drawn z, nats",
    "kl": "KL, nats",
}
"""What a statement may speak of: figures of the test images."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One training, repeated over the seeds.

    Attributes
    ----------
    name : str
    what : str
        In words.
    settings : dict
        What differs from the base; keys are flags of ``vae-dist train``.
    """

    name: str
    what: str
    settings: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What is claimed of one or several rows; it holds if it holds for each of them."""

    text: str
    """In its own words' sense."""
    figure: Annotated[str, OneOf(*FIGURES)]
    """A name in `FIGURES`."""
    rows: list[str]
    """Rows of the study, pca or umap."""
    expect: Annotated[str, OneOf("higher", "lower", "alike", "at least", "at most")]
    """What is claimed of the rows: than `against`, or at least or at most `value`."""
    against: str = ""
    value: float | None = None
    margin: Annotated[float, AtLeast(0)] = 0.0
    """alike: up to which difference."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.bound is (self.value is None) or self.bound is bool(self.against):
            raise UserError(
                "at least and at most need a value, and every other expectation needs against"
            )

    @property
    def bound(self) -> bool:
        """Whether the rows are held against `value`, and not against another row."""
        return self.expect in ("at least", "at most")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What `read_study` reads."""

    name: str
    title: str
    seeds: list[int]
    fixed: dict[str, Any]
    rows: list[StudyRow]
    statements: list[Statement] = field(default_factory=list)

    def training(self, row: StudyRow, seed: int, data: str, data_name: str) -> Training:
        """The training of a row with a seed on a data folder."""
        settings = {**self.fixed, **row.settings, "seed": seed, "data": data}
        name = f"{self.name}-{data_name}-{row.name}-seed{seed}"
        return Training(name, {"row": row.name, "seed": seed}, list(flags_of(settings)))


def study_names() -> list[str]:
    """Studies that come with the program."""
    return sorted(path.stem for path in STUDIES.glob("*.toml"))


def read_study(name: str) -> Study:
    """Read a study that comes with the program, or a file.

    Parameters
    ----------
    name : str
        Its name, or the path of a TOML file: ``title``, ``base`` (a preset), ``seeds``, a table
        ``[fixed]``, and ``[[row]]`` and ``[[statement]]`` with the fields of `StudyRow` (whose
        settings stand beside name and what) and `Statement`.

    Raises
    ------
    UserError
        If it cannot be read, or a row is not what ``vae-dist train`` takes.
    """
    path = Path(name)
    if not path.suffix:
        path = STUDIES / f"{name}.toml"
        if name not in study_names():
            raise UserError(f"--study {name}: no such study; {nearest(name, study_names())}")
    with files_of_user(f"--study {path}: cannot be read"):
        content = path.read_bytes()
    try:
        table = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"--study {path}: not a TOML file: {error}") from error
    try:
        study = _study(path, table)
    except (UserError, TypeError) as error:
        raise UserError(f"--study {path}: {error}") from error
    for row in study.rows:
        training = study.training(row, study.seeds[0], "data", "data")
        check_training(training, f"--study {path}: row {row.name}")
    return study


def _study(path: Path, table: dict[str, Any]) -> Study:
    known = {"title", "base", "seeds", "fixed", "row", "statement"}
    if odd := sorted(set(table) - known):
        raise UserError(f"{odd[0]}: {nearest(odd[0], sorted(known))}")
    seeds, rows, statements = (table.get(key, []) for key in ("seeds", "row", "statement"))
    if not _all(seeds, int) or not seeds:
        raise UserError("seeds must be a list of whole numbers, as in [42, 43, 44]")
    if not _all(rows, dict) or not rows or not _all(statements, dict):
        raise UserError("needs tables [[row]], and may have [[statement]]")
    fixed = table.get("fixed", {})
    if not isinstance(fixed, dict):
        raise UserError("[fixed] must be a table")
    if base := table.get("base"):
        preset = read_settings(preset_path(str(base)), str(base))
        fixed = {key.replace("-", "_"): value for key, value in preset.items()} | fixed
    for key in ("name", "seed", "data", "dataset"):
        fixed.pop(key, None)
    found = [_row(row) for row in rows]
    names = [row.name for row in found]
    if double := next((n for n in names if names.count(n) > 1), None):
        raise UserError(f"two rows are called {double}")
    title = str(table.get("title", path.stem))
    study = Study(
        name=path.stem,
        title=title,
        seeds=seeds,
        fixed=fixed,
        rows=found,
        statements=[_statement(each, [*names, *METHODS]) for each in statements],
    )
    return study


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _row(table: dict[str, Any]) -> StudyRow:
    settings = dict(table)
    name, what = settings.pop("name", None), settings.pop("what", "")
    if not isinstance(name, str) or not name.isidentifier() or name in METHODS:
        raise UserError(f"a row's name must be a word of letters, digits and _, not {name!r}")
    if wrong := {"seed", "data", "dataset", "runs_dir", "resume"} & settings.keys():
        raise UserError(f"row {name}: {min(wrong)} is set by the study itself; leave it out")
    return StudyRow(name=name, what=str(what), settings=settings)


def _statement(table: dict[str, Any], names: Sequence[str]) -> Statement:
    known = [each.name for each in fields(Statement)]
    if odd := sorted(set(table) - set(known)):
        raise UserError(f"[[statement]] {odd[0]}: {nearest(odd[0], known)}")
    statement = Statement(**table)
    if not _all(statement.rows, str) or not statement.rows:
        raise UserError(f"[[statement]] {statement.text!r}: rows must be a list of names")
    for name in (*statement.rows, *([statement.against] if statement.against else [])):
        if name not in names:
            raise UserError(f"[[statement]] {statement.text!r}: row {name}: {nearest(name, names)}")
    return statement
