"""Read a study from its TOML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError, nearest
from launch.ablate.study import (
    METHODS,
    OWN,
    PICTURES,
    STUDIES,
    Importance,
    Record,
    Statement,
    Study,
    StudyRow,
    preset_settings,
)
from launch.setting_files import preset_path, read_toml
from launch.sweep.trainings import check_training


def study_names() -> list[str]:
    """Studies that come with the program."""
    return sorted(path.stem for path in STUDIES.glob("*.toml"))


def read_study(name: str) -> Study:
    """Read a study that comes with the program, or a file.

    Parameters
    ----------
    name : str
        Its name, or the path of a TOML file: ``title``, ``about``, ``base`` (a preset),
        ``seeds``, ``pictures``, tables ``[fixed]`` and ``[evaluation]`` (`Importance`), and ``[[row]]``,
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
    table = read_toml(path, f"--study {path}")
    try:
        study = _study(path, table)
    except (UserError, TypeError) as error:
        raise UserError(f"--study {path}: {error}") from error
    for row in study.rows:
        training = study.training(row, study.seeds[0], "data", "data")
        check_training(training, f"--study {path}: row {row.name}")
    return study


def _study(path: Path, table: dict[str, Any]) -> Study:
    known = {"title", "about", "base", "seeds", "fixed", "evaluation", "pictures"}
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
    base = preset_settings(str(table["base"])) if "base" in table else {}
    pictures = table.get("pictures", [])
    if not _all(pictures, str) or set(pictures) - set(PICTURES):
        raise UserError(f"pictures must be a list of names out of {', '.join(PICTURES)}")
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
        pictures=pictures,
    )
    return study


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
