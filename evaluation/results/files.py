"""``results.json`` and its tables: written, and read back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.records import read_json, read_record
from evaluation.files import write_csv, write_text
from evaluation.results.leaderboard import leaderboard
from evaluation.results.records import SCHEMA, Results, Row

_FIX = "run vae-dist evaluate again"


def write_results(out: Path, results: Results) -> None:
    """Write ``results.json``, ``results.csv`` and ``leaderboard.csv``, each whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results.as_json(), indent=1, allow_nan=False)
    write_text(out / "results.json", text + "\n")
    columns = [f.name for f in dataclasses.fields(Row) if f.name != "values"]
    rows = [dataclasses.asdict(row) for row in results.rows]
    write_csv(out / "results.csv", columns, rows)
    board = [line | {"blank": _reasons(line["blank"])} for line in leaderboard(results)]
    write_csv(out / "leaderboard.csv", list(board[0]) if board else ["embedding"], board)


def read_results(out: Path) -> Results:
    """Read ``results.json`` back.

    Raises
    ------
    ValueError
        If there is none, or it is of another schema.
    """
    path = out / "results.json"
    raw = read_json(path, fix=_FIX)
    if raw.pop("schema", None) != SCHEMA:
        raise UserError(f"{path}: written by another version; {_FIX}")
    results = read_record(Results, raw, str(path), fix=_FIX)
    _check(results, str(path))
    return results


def _check(results: Results, path: str) -> None:
    """Refuse what fits its types and not each other."""
    if len(results.image_shape) != 3 or min(results.image_shape) < 1:
        raise UserError(
            f"{path}: image_shape is {results.image_shape}, expected three sizes; {_FIX}"
        )
    for name in ("train", "test"):
        if results.counts.get(name, -1) < 0:
            raise UserError(f"{path}: counts.{name} is missing or below 0; {_FIX}")
    for listed in ([item.id for item in results.embeddings], [run.name for run in results.runs]):
        for name in listed:
            if listed.count(name) > 1 or Path(name).name != name:
                raise UserError(f"{path}: {name!r} is no name, or stands there twice; {_FIX}")


def _reasons(blank: dict[str, str]) -> str:
    return "; ".join(f"{metric}: {reason}" for metric, reason in blank.items())
