"""The page that a study writes: its statements with their verdicts, and the figures of its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.files import write_whole
from launch.ablate.figures import Cell
from launch.ablate.study import Statement, Study
from launch.ablate.verdict import MISSING, judge, over_seeds, together

Cells = dict[str, dict[str, Cell]]
"""Data set to row to figures."""


def verdicts(study: Study, cells: Cells) -> list[tuple[Statement, str, str]]:
    """Each statement with its verdict and the figures that it rests on."""
    found = []
    for statement in study.statements:
        single, figures = [], []
        for data, rows in cells.items():
            others = rows.get(statement.against)
            compared = others.of(statement.figure) if others else []
            words = []
            for name in statement.rows:
                values = rows[name].of(statement.figure) if name in rows else []
                single.append(judge(statement, values, compared) if values else MISSING)
                words += [f"{name} {over_seeds(values)}"] if values else []
            if compared:
                words.append(f"{statement.against} {over_seeds(compared)}")
            figures += [f"{data}: " + ", ".join(words)] if words else []
        found.append((statement, together(single), "; ".join(figures)))
    return found


def page(study: Study, cells: Cells, machine: str) -> str:
    """The study as Markdown."""
    return "\n".join(_lines(study, cells, machine)) + "\n"


def _lines(study: Study, cells: Cells, machine: str) -> Iterator[str]:
    seeds = ", ".join(map(str, study.seeds))
    yield f"## {study.title}"
    yield ""
    yield f"Seeds {seeds}; mean and half of the 95 % t interval over them. {machine}"
    yield ""
    if study.statements:
        yield "| statement | verdict | figure | on the test images |"
        yield "|---|---|---|---|"
        for statement, verdict, figures in verdicts(study, cells):
            yield f"| {statement.text} | {verdict} | {statement.figure} | {figures} |"
        yield ""
    for data, rows in cells.items():
        yield f"### {data}"
        yield ""
        yield "| row | what | parameters | SSIM | KNN, 500 labels a class, k = 10 | trainings | minutes each |"
        yield "|---|---|---:|---:|---:|---:|---:|"
        for row in study.rows:
            if cell := rows.get(row.name):
                yield _row(row.name, row.what, cell)
        for name in [each for each in rows if each not in {row.name for row in study.rows}]:
            yield f"| {name} | 10 dimensions; interval over samples of labels | | | {over_seeds(rows[name].knn)} | | |"
        yield ""
    yield f"All of it: `vae-dist ablate --study {study.name} --data FOLDER ...`; a row again, alone: add"
    yield "`--rows NAME --runs-dir OTHER`."


def _row(name: str, what: str, cell: Cell) -> str:
    ssim, knn = (str(over_seeds(values)) if values else "" for values in (cell.ssim, cell.knn))
    count = "" if cell.parameters is None else f"{cell.parameters:,}"
    minutes = "" if cell.minutes is None else f"{cell.minutes:.1f}"
    return f"| {name} | {what} | {count} | {ssim} | {knn} | {len(cell.ssim)} | {minutes} |"


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


def table(found: Sequence[tuple[Statement, str, str]]) -> str:
    """The statements and verdicts, for a terminal."""
    return "\n".join(f"{verdict:>14}  {statement.text}" for statement, verdict, _ in found)
