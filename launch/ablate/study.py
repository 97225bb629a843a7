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
OWN = ("name", "seed", "data", "dataset")
"""Settings of a preset that a study gives itself."""
METHODS = ("pca", "umap")
"""What a statement may compare besides trained rows."""
FIGURES = {
    "ssim": "SSIM of reconstructions",
    "knn": "KNN accuracy (500 labels a class, k = 10)",
    "knn_all": "KNN accuracy (all labels, k = 5)",
    "recon": "reconstruction from a drawn z, nats",
    "kl": "KL, nats",
    "nll": "bound on -log p(x) by importance samples, nats",
}
"""What a statement or record may speak of: figures of the test images."""


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
    preset : str
        A preset that this row starts from in place of the study's base.
    sets : tuple of str
        Data sets that the row is for; empty: all.
    """

    name: str
    what: str
    settings: dict[str, Any]
    preset: str = ""
    sets: tuple[str, ...] = ()


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
class Record:
    """A target for one row."""

    text: str
    """What is asked for: the size, the figure, on which data."""
    row: str
    """A row of the study, pca or umap."""
    figure: Annotated[str, OneOf(*FIGURES)]
    """A name in `FIGURES`."""
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.at_least is None) is (self.at_most is None):
            raise UserError("a record needs either at_least or at_most")

    @property
    def statement(self) -> Statement:
        """That the target is reached."""
        return Statement(
            text=self.text,
            figure=self.figure,
            rows=[self.row],
            expect="at least" if self.at_most is None else "at most",
            value=self.at_least if self.at_most is None else self.at_most,
        )


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How the figure nll is measured."""

    nll_samples: Annotated[int, AtLeast(1)] = 5000
    """Importance samples of each image."""
    nll_images: Annotated[int, AtLeast(1)] = 10000
    """The first test images."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Study:
    """What `read_study` reads."""

    name: str
    title: str
    seeds: list[int]
    fixed: dict[str, Any]
    rows: list[StudyRow]
    statements: list[Statement] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    importance: Importance = field(default_factory=Importance)
    about: str = ""
    """A paragraph under the title."""
    base: dict[str, Any] = field(default_factory=dict)

    def rows_on(self, data_name: str) -> list[StudyRow]:
        """The rows that are for a data set."""
        return [row for row in self.rows if not row.sets or data_name in row.sets]

    def rows_with(self, figure: str) -> set[str]:
        """Rows of which a statement or a record has a figure."""
        found = {record.row for record in self.records if record.figure == figure}
        for each in self.statements:
            found |= {*each.rows, each.against} if each.figure == figure else set()
        return found - {""}

    def training(self, row: StudyRow, seed: int, data: str, data_name: str) -> Training:
        """The training of a row with a seed on a data folder."""
        base = _preset(row.preset) if row.preset else self.base
        settings = {**base, **self.fixed, **row.settings, "seed": seed, "data": data}
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
        Its name, or the path of a TOML file: ``title``, ``about``, ``base`` (a preset),
        ``seeds``, tables ``[fixed]`` and ``[evaluation]`` (`Importance`), and ``[[row]]``,
        ``[[statement]]`` and ``[[record]]`` with the fields of `StudyRow` (whose settings stand
        beside the others), `Statement` and `Record`.

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
    known = {"title", "about", "base", "seeds", "fixed", "evaluation"}
    known |= {"row", "statement", "record"}
    if odd := sorted(set(table) - known):
        raise UserError(f"{odd[0]}: {nearest(odd[0], sorted(known))}")
    seeds, rows = table.get("seeds", []), table.get("row", [])
    statements, records = table.get("statement", []), table.get("record", [])
    if not _all(seeds, int) or not seeds:
        raise UserError("seeds must be a list of whole numbers, as in [42, 43, 44]")
    if not _all(rows, dict) or not rows or not all(_all(t, dict) for t in (statements, records)):
        raise UserError("needs tables [[row]], and may have [[statement]] and [[record]]")
    fixed, evaluation = table.get("fixed", {}), table.get("evaluation", {})
    if not isinstance(fixed, dict) or not isinstance(evaluation, dict):
        raise UserError("[fixed] and [evaluation] must be tables")
    base = _preset(str(table["base"])) if "base" in table else {}
    found = [_row(row) for row in rows]
    names = [row.name for row in found]
    if double := next((n for n in names if names.count(n) > 1), None):
        raise UserError(f"two rows are called {double}")
    title = str(table.get("title", path.stem))
    study = Study(
        name=path.stem,
        title=title,
        seeds=seeds,
        fixed={key: value for key, value in fixed.items() if key not in OWN},
        rows=found,
        statements=[_statement(each, [*names, *METHODS]) for each in statements],
        records=[_record(each, [*names, *METHODS]) for each in records],
        importance=Importance(**_known("[evaluation]", evaluation, Importance)),
        about=str(table.get("about", "")).strip(),
        base=base,
    )
    return study


def _preset(name: str) -> dict[str, Any]:
    """Settings of a preset that a training of a study can take."""
    found = read_settings(preset_path(name), name)
    return {key.replace("-", "_"): value for key, value in found.items() if key not in OWN}


def _known(where: str, table: dict[str, Any], kind: Any) -> dict[str, Any]:
    """A table with no other keys than the fields of its kind."""
    known = [each.name for each in fields(kind)]
    if odd := sorted(set(table) - set(known)):
        raise UserError(f"{where} {odd[0]}: {nearest(odd[0], known)}")
    return table


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _row(table: dict[str, Any]) -> StudyRow:
    settings = dict(table)
    name, what = settings.pop("name", None), settings.pop("what", "")
    preset, sets = settings.pop("preset", ""), settings.pop("sets", [])
    if not isinstance(name, str) or not name.isidentifier() or name in METHODS:
        raise UserError(f"a row's name must be a word of letters, digits and _, not {name!r}")
    if wrong := {"seed", "data", "dataset", "runs_dir", "resume"} & settings.keys():
        raise UserError(f"row {name}: {min(wrong)} is set by the study itself; leave it out")
    if not _all(sets, str):
        raise UserError(f'row {name}: sets must be a list of data sets, as in ["mnist"]')
    if preset:
        preset_path(str(preset))
    return StudyRow(
        name=name, what=str(what), settings=settings, preset=str(preset), sets=tuple(sets)
    )


def _statement(table: dict[str, Any], names: Sequence[str]) -> Statement:
    statement = Statement(**_known("[[statement]]", table, Statement))
    if not _all(statement.rows, str) or not statement.rows:
        raise UserError(f"[[statement]] {statement.text!r}: rows must be a list of names")
    for name in (*statement.rows, *([statement.against] if statement.against else [])):
        if name not in names:
            raise UserError(f"[[statement]] {statement.text!r}: row {name}: {nearest(name, names)}")
    return statement


def _record(table: dict[str, Any], names: Sequence[str]) -> Record:
    record = Record(**_known("[[record]]", table, Record))
    if record.row not in names:
        raise UserError(
            f"[[record]] {record.text!r}: row {record.row}: {nearest(record.row, names)}"
        )
    return record
