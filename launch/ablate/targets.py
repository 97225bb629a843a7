"""The records of a study: targets, and how far its rows came."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from launch.ablate.figures import Cell
from launch.ablate.study import FIGURES, METHODS, Record, Study
from launch.ablate.verdict import HELD, judge, over_seeds
from launch.sweep.trainings import flags_of

REACHED, MEAN, MISSED, UNTRAINED = "reached", "by the mean only", "not reached", "not trained"


@dataclass(frozen=True)
class Outcome:
    """What a record came to on one data set."""

    record: Record
    data: str
    values: list[float]
    """By seed; nothing where the row was not trained."""
    verdict: str


def outcomes(study: Study, cells: Mapping[str, Mapping[str, Cell]]) -> list[Outcome]:
    """Each record on each data set that its row is for.

    A target is reached where the whole 95 % interval over the seeds is, and by the mean only
    where the interval reaches over it (or there is one seed).
    """
    found = []
    for data, rows in cells.items():
        here = {row.name for row in study.rows_on(data)} | set(METHODS)
        for record in study.records:
            if record.row in here:
                values = rows[record.row].of(record.figure) if record.row in rows else []
                found.append(Outcome(record, data, values, _verdict(record, values)))
    return found


def _verdict(record: Record, values: list[float]) -> str:
    if not values:
        return UNTRAINED
    if judge(record.statement, values, []) == HELD:
        return REACHED
    mean = over_seeds(values).mean
    if record.at_most is not None:
        return MEAN if mean <= record.at_most else MISSED
    assert record.at_least is not None
    return MEAN if mean >= record.at_least else MISSED


def target_lines(study: Study, cells: Mapping[str, Mapping[str, Cell]]) -> Iterator[str]:
    """The table of records, as Markdown."""
    yield "| asked for | row | parameters | latents | figure on test | target | outcome | minutes a training, on |"
    yield "|---|---|---:|---:|---:|---:|---|---|"
    for each in outcomes(study, cells):
        record, cell = each.record, cells[each.data].get(each.record.row, Cell([], []))
        figure = (
            over_seeds(each.values).text(2 if "nats" in FIGURES[record.figure] else 4)
            if each.values
            else ""
        )
        words = (
            record.text,
            record.row,
            "" if cell.parameters is None else f"{cell.parameters:,}",
            "" if cell.latents is None else str(cell.latents),
            figure,
            f"{record.statement.expect} {record.statement.value:g}",
            each.verdict,
            _cost(cell),
        )
        yield f"| {' | '.join(words)} |"
    yield ""
    figures = dict.fromkeys(record.figure for record in study.records)
    yield "Figures: " + "; ".join(_words(study, figure) for figure in figures) + "."
    yield "A target is reached where the whole interval over the seeds is. A record again, all seeds and"
    yield "evaluation; and one training alone:"
    yield ""
    yield f"    vae-dist ablate --study {study.name} --data FOLDER --rows ROW"
    for row in study.rows:
        if row.preset:
            more = {**study.fixed, **row.settings, "seed": study.seeds[0]}
            flags = shlex.join(flags_of(more))
            yield f"    vae-dist train --preset {row.preset} {flags} --data FOLDER --name {row.name}"


def _words(study: Study, figure: str) -> str:
    if figure != "nll":
        return FIGURES[figure]
    how = study.importance
    return (
        f"{FIGURES[figure]} ({how.nll_samples:,} samples, the first {how.nll_images:,} test images)"
    )


def _cost(cell: Cell) -> str:
    if not cell.minutes:
        return ""
    machines = ", ".join(dict.fromkeys(cell.machines))
    return f"{statistics.median(cell.minutes):.1f}, {machines}"
