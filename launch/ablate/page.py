"""The page that a study writes: its statements with their verdicts, and the figures of its rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.files import write_whole
from launch.ablate.figures import Cell
from launch.ablate.pictures import Drawn
from launch.ablate.study import FIGURES, Statement, Study
from launch.ablate.targets import target_lines
from launch.ablate.verdict import (
    MISSING,
    OPEN,
    difference,
    judge,
    over_seeds,
    seeds_needed,
    together,
)

Cells = dict[str, dict[str, Cell]]
"""Data set to row to figures."""
HEADS = {
    "ssim": "SSIM",
    "knn": "KNN, 500 labels a class, k = 10",
    "knn_all": "KNN, all labels, k = 5",
    "recon": "reconstruction, nats",
    "kl": "KL, nats",
    "nll": "bound by importance samples, nats",
}
"""Of the table's columns."""
UNTRAINED = "(not trained)"


def verdicts(study: Study, cells: Cells) -> list[tuple[Statement, str, str]]:
    """Each statement with its verdict and the figures that it rests on."""
    found = []
    for statement in study.statements:
        single, figures, needs = [], [], []
        for data, rows in cells.items():
            others = (
                rows[statement.against].of(statement.figure) if statement.against in rows else []
            )
            words = []
            for name in statement.rows:
                values = rows[name].of(statement.figure) if name in rows else []
                single.append(judge(statement, values, others) if values else MISSING)
                words.append(_beside(name, values, others))
                if single[-1] == OPEN:
                    where = f"{name} on {data}" if len(cells) > 1 else name
                    needs.append(f"{where} {_seeds(statement, values, others)}")
            if statement.against:
                words.append(f"{statement.against} {over_seeds(others) if others else UNTRAINED}")
            figures.append(f"{data}: " + "; ".join(words))
        if needs:
            figures.append(
                "More seeds would decide (name all of them in `--seeds`): " + "; ".join(needs)
            )
        found.append((statement, together(single), ". ".join(figures)))
    return found


def _seeds(statement: Statement, values: Sequence[float], others: Sequence[float]) -> str:
    """What it takes to decide on a row, in words."""
    if len(values) < 2 or (others and len(others) < 2):
        return "needs more than one; how many, one training cannot tell"
    count = seeds_needed(statement, values, others)
    if count is None:
        return "more than 100 a row, at the spread seen here"
    return f"about {count} a row, at the spread seen here"


def _beside(name: str, values: Sequence[float], others: Sequence[float]) -> str:
    """A row's figure and, where there is a row to compare, the interval of the difference."""
    if not values:
        return f"{name} {UNTRAINED}"
    text = f"{name} {over_seeds(values)}"
    if not others:
        return text
    found = difference(values, others)
    if math.isnan(found.low):
        return f"{text} ({found.mean:+.3f})"
    return f"{text} ({found.mean:+.3f}, from {found.low:+.3f} to {found.high:+.3f})"


def page(
    study: Study, cells: Cells, machine: str, drawn: Mapping[str, Sequence[Drawn]] | None = None
) -> str:
    """The study as Markdown, with the pictures of each data set in the folder images."""
    return "\n".join(_lines(study, cells, machine, drawn or {})) + "\n"


def _lines(
    study: Study, cells: Cells, machine: str, drawn: Mapping[str, Sequence[Drawn]]
) -> Iterator[str]:
    seeds = ", ".join(map(str, study.seeds))
    minutes = [each for rows in cells.values() for cell in rows.values() for each in cell.minutes]
    yield f"## {study.title}"
    yield ""
    if study.about:
        yield study.about
        yield ""
    yield f"Training seeds {seeds}. ± is half of the 95 % t interval over them; in brackets stands the"
    yield "difference to the row that is compared, with its 95 % interval (Welch). All figures are of the"
    yield f"test images. Evaluated on {machine} The steps of {len(minutes)} trainings took"
    yield f"{sum(minutes):.0f} minutes in all, without validation and evaluation, {_machines(cells)}."
    yield ""
    if study.records:
        yield from target_lines(study, cells)
        yield ""
    for statement, verdict, figures in verdicts(study, cells):
        yield f"**{statement.text}: {verdict}.** {_capital(FIGURES[statement.figure])}, {_claim(statement)}. {figures}."
        yield ""
        yield f"    {_command(study, _trained(study, statement))}"
        yield ""
    for data, rows in cells.items():
        shown = [each for each in FIGURES if any(cell.of(each) for cell in rows.values())]
        yield f"### {data}"
        yield ""
        heads = " | ".join(HEADS[figure] for figure in shown)
        yield f"| row | what | parameters | latents | {heads} | trainings | minutes each |"
        yield f"|---|---|{'---:|' * (len(shown) + 4)}"
        for row in study.rows:
            if cell := rows.get(row.name):
                yield _row(row.name, row.what, cell, shown)
        for name in [each for each in rows if each not in {row.name for row in study.rows}]:
            what = "10 dimensions; interval over samples of labels"
            yield _row(name, what, rows[name], shown)
        yield ""
        if missing := [row.name for row in study.rows_on(data) if row.name not in rows]:
            yield f"Not trained: {', '.join(missing)}. With them:"
            yield ""
            yield f"    {_command(study, missing)}"
            yield ""
        for each in drawn.get(data, []):
            yield f"![{each.name.replace('_', ' ')}](images/{each.path.name})"
            yield ""
            yield f"*{each.caption}.*"
            yield ""
    yield "The reconstruction is from a drawn z and so, with the KL, a point of distortion and rate; those"
    yield "of different losses do not compare. A row again, on its own: the command with `--rows NAME` and"
    yield "another `--runs-dir`."


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _claim(statement: Statement) -> str:
    """What is expected, in words."""
    if statement.bound:
        return f"expected {statement.expect} {statement.value:g}"
    within = f" within {statement.margin:g}" if statement.expect == "alike" else ""
    return f"expected {statement.expect}{within} beside {statement.against}"


def _trained(study: Study, statement: Statement) -> list[str]:
    """The rows of a statement that are trainings."""
    named = {*statement.rows, statement.against}
    return [row.name for row in study.rows if row.name in named]


def _command(study: Study, rows: Sequence[str]) -> str:
    chosen = f" --rows {' '.join(rows)}" if rows else " --train False"
    return f"vae-dist ablate --study {study.name} --data FOLDER{chosen}"


def _row(name: str, what: str, cell: Cell, figures: Sequence[str]) -> str:
    words = [str(over_seeds(values)) if (values := cell.of(each)) else "" for each in figures]
    count = "" if cell.parameters is None else f"{cell.parameters:,}"
    latents = "" if cell.latents is None else str(cell.latents)
    minutes = f"{statistics.median(cell.minutes):.1f}" if cell.minutes else ""
    trained = str(len(cell.ssim)) if cell.ssim else ""
    cells = " | ".join((name, what, count, latents, *words, trained, minutes))
    return f"| {cells} |"


def _machines(cells: Cells) -> str:
    """What the rows were trained on; the rows by name where that differs."""
    found: dict[str, list[str]] = {}
    for rows in cells.values():
        for name, cell in rows.items():
            for machine in dict.fromkeys(cell.machines):
                found.setdefault(machine, []).append(name)
    if len(found) == 1:
        return f"on {next(iter(found))}"
    return "; ".join(
        f"on {machine}: {', '.join(dict.fromkeys(names))}" for machine, names in found.items()
    )


def write_page(path: Path, study: str, text: str) -> None:
    """Put a study's text into a page, in the place of its former one or at the end.

    Raises
    ------
    UserError
        If the page cannot be read or written, or has only one of the two marks.
    """
    begin, end = f"<!-- ablate {study}: begin -->", f"<!-- ablate {study}: end -->"
    with files_of_user(f"--write {path}: cannot be read"):
        page = path.read_text(encoding="utf-8") if path.exists() else "# Results\n"
    if (begin in page) != (end in page):
        raise UserError(f"--write {path}: has only one of {begin} and {end}; remove it")
    if begin in page:
        head, _, rest = page.partition(begin)
        tail = rest.partition(end)[2]
    else:
        head, tail = page.rstrip("\n") + "\n\n", "\n"
    with files_of_user(f"--write {path}: cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, f"{head}{begin}\n{text}{end}{tail}".encode())


def table(judged: Sequence[tuple[str, str]]) -> str:
    """Texts and verdicts, for a terminal."""
    return "\n".join(f"{verdict:>16}  {text}" for text, verdict in judged)
