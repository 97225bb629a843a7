"""The report's tables as plain values; the template writes and escapes them."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from typing import Any

from evaluation.items import TITLES
from evaluation.report.columns import BEST, OVER_SEEDS, RECONSTRUCTION, SCORES, STRUCTURE
from evaluation.results.blanks import why_blank
from evaluation.results.folder import Folder
from evaluation.results.records import TEST_FIGURE, Results, Row
from evaluation.results.seeds import over_seeds

TEST_COLUMNS = ("knn_test_accuracy", "interval")
_RECORD_COLUMNS = (
    "embedding", "run", "method", "dim", "metric", "value", "ci_low", "ci_high", "repeats",
    "unit", "split", "labels_per_class", "k", "weights", "folds", "index", "seed", "backend",
    "seconds", "note",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """What a table shows, and by what it sorts."""

    text: str
    sort: str | float = ""
    note: str = ""
    figure: bool = False
    hint: str = ""  # why there is no figure
    best: bool = False  # of its column
    method: str = ""  # whose colour stands before the text


@dataclass(frozen=True)
class Table:
    """Headings with explanations, and rows of cells."""

    headings: list[tuple[str, str]]
    rows: list[list[Cell]]


def headline(folder: Folder) -> Table:
    """One line an embedding, the best test accuracy first, with 95 % intervals."""
    board = folder.board
    columns = score_columns(board)
    labels = folder.test_labels
    headings = [("method", ""), ("dimensions", "")]
    tested = any(line["knn_test_accuracy"] is not None for line in board)
    if tested:
        headings += [
            (
                "KNN test accuracy",
                f"share of test images named rightly; {labels} labels a class, best k; "
                + _interval_note(board),
            ),
            ("k", "neighbours that vote"),
        ]
    headings += [(heading, note) for _, heading, _, note in columns]
    headings += [("backend", "")]
    rows = []
    for line in board:
        cells = [
            Cell(line["title"], line["title"], line["embedding"], method=line["method"]),
            number(line["dim"], 0),
        ]
        if tested:
            cells += [_with_interval(line), number(line["k"], 0)]
        cells += [
            number(line[key], digits, line["blank"].get(key, "")) for key, _, digits, _ in columns
        ]
        cells += [Cell(line["backend"], line["backend"])]
        rows.append(cells)
    keys = ["", "", *(["knn_test_accuracy", ""] if tested else []), *(name for name, *_ in columns)]
    return Table(headings, _mark_best(rows, keys))


def _interval_note(board: list[dict[str, Any]]) -> str:
    """By what luck the intervals of the headline table are."""
    if any((line["repeats"] or 1) > 1 for line in board):
        return "95 % interval over samples of labels"
    return "95 % interval over test images (Wilson)"


def _mark_best(rows: list[list[Cell]], keys: list[str]) -> list[list[Cell]]:
    """Mark the best of each column that has a best and something to compare."""
    for place, key in enumerate(keys):
        values = [row[place].sort for row in rows if isinstance(row[place].sort, float)]
        if key not in BEST or len(values) < 2:
            continue
        best = max(values, key=lambda value: BEST[key] * float(value))
        for row in rows:
            if row[place].sort == best:
                row[place] = replace(row[place], best=True)
    return rows


def score_columns(board: list[dict[str, Any]]) -> list[tuple[str, str, int, str]]:
    """Columns of the headline table that have a figure."""
    return [column for column in SCORES if any(line[column[0]] is not None for line in board)]


def structure_table(folder: Folder) -> Table:
    """What else was measured of each embedding."""
    lines = [
        (item.title, item.method, [row for row in folder.results.rows if row.embedding == item.id])
        for item in folder.results.embeddings
    ]
    return _pivot(folder.results, lines, STRUCTURE)


def reconstruction_table(folder: Folder) -> Table:
    """What was measured of decoders and latents: runs, and PCA beside them."""
    lines: dict[tuple[str, int, str | None], list[Row]] = {}
    for row in folder.results.rows:
        lines.setdefault((row.method, row.dim, row.run), []).append(row)
    shown = [
        (f"{method.upper()} {dim}" + (f" ({run})" if run else ""), method, rows)
        for (method, dim, run), rows in lines.items()
        if any(row.metric == "ssim" and row.value is not None for row in rows)
    ]
    return _pivot(folder.results, shown, RECONSTRUCTION)


def _pivot(
    results: Results,
    lines: list[tuple[str, str, list[Row]]],
    columns: tuple[tuple[str, str, int, str], ...],
) -> Table:
    """One line a subject, one column a metric; of several values of one metric the best."""
    kept = [
        column
        for column in columns
        if any(
            row.metric == column[0] and row.value is not None
            for _, _, rows in lines
            for row in rows
        )
    ]
    headings = [("method", ""), *((heading, note) for _, heading, _, note in kept)]
    table = []
    for title, method, rows in lines:
        cells = [Cell(title, title, method=method)]
        for metric, _, digits, _ in kept:
            values = [row for row in rows if row.metric == metric and row.value is not None]
            sign = BEST.get(metric, 1)
            best = max(values, key=lambda row: sign * (row.value or 0.0), default=None)
            why = "" if best else why_blank(results, metric, method, rows)
            cell = number(best.value if best else None, digits, why)
            if best is not None and best.k is not None and len(values) > 1:
                cell = Cell(cell.text, cell.sort, f"k={best.k}", figure=True)
            cells.append(cell)
        table.append(cells)
    table = _mark_best(table, ["", *(name for name, *_ in kept)])
    return Table(headings, table if kept else [])


def seed_table(results: Results) -> Table:
    """Trainings that differ only in their seed: means with 95 % intervals over them."""
    rows = over_seeds(results)
    groups: dict[tuple[str, int, str | None], dict[str, Row]] = {}
    for row in rows:
        shown = groups.setdefault((row.method, row.dim, row.run), {})
        if row.metric == TEST_FIGURE["metric"] and row.weights != TEST_FIGURE["weights"]:
            continue
        former = shown.get(row.metric)
        if former is None or (row.value or 0.0) > (former.value or 0.0):  # the best k
            shown[row.metric] = row
    columns = [
        column for column in OVER_SEEDS if any(column[0] in shown for shown in groups.values())
    ]
    headings = [("method", ""), ("trainings", "")]
    headings += [(heading, f"{note}; mean and 95 % interval") for _, heading, _, note in columns]
    table = []
    for (method, dim, runs), shown in groups.items():
        cells = [Cell(f"{TITLES.get(method, method)} {dim}", method, method=method), _word(runs)]
        for metric, _, digits, _ in columns:
            mean = shown.get(metric)
            cell = number(mean.value if mean else None, digits)
            if mean is not None and mean.ci_low is not None and mean.ci_high is not None:
                half = number((mean.ci_high - mean.ci_low) / 2, digits).text
                cell = Cell(cell.text, cell.sort, f"± {half}", figure=True)
            cells.append(cell)
        table.append(cells)
    return Table(headings, table)


def run_table(results: Results) -> Table:
    """The trained runs that were evaluated."""
    headings = [
        ("run", ""), ("model", ""), ("latents", ""), ("parameters", ""), ("step", ""),
        ("seconds of training", "up to this step, without validation; by metrics.jsonl"),
        ("path", ""), ("checkpoint (SHA-256)", ""),
    ]  # fmt: skip
    rows = []
    for run in results.runs:
        kind = str(run.model.get("model_type", "–"))
        rows.append(
            [
                Cell(run.name, run.name), Cell(kind, kind), number(run.latent_size, 0),
                number(run.num_parameters, 0), number(run.step, 0),
                number(run.training_seconds, 1), Cell(run.path, run.path),
                Cell(run.content_hash[:12], run.content_hash, run.content_hash),
            ]
        )  # fmt: skip
    return Table(headings, rows)


def stage_table(results: Results) -> Table:
    """What was computed where, and what it cost."""
    headings = [
        ("stage", ""), ("embedding", ""), ("backend", ""), ("seconds", ""),
        ("peak memory (MiB)", "of the device, or resident on a CPU"), ("note", ""),
    ]  # fmt: skip
    rows = []
    for stage in results.stages:
        peak = stage.peak_memory_bytes
        rows.append(
            [
                Cell(stage.stage, stage.stage), _word(stage.embedding), _word(stage.backend),
                number(stage.seconds, 2), number(None if peak is None else peak / 2**20, 0),
                _word(stage.note),
            ]
        )  # fmt: skip
    return Table(headings, rows)


def record_table(results: Results) -> dict[str, Any]:
    """Every figure, for the page's script: columns that hold something, and their values."""
    columns = [
        name
        for name in _RECORD_COLUMNS
        if any(getattr(row, name) is not None for row in results.rows)
    ]
    return {
        "columns": columns,
        "rows": [[_plain(row, name) for name in columns] for row in results.rows],
    }


def made(results: Results) -> list[tuple[str, str]]:
    """How the evaluation was made, as pairs of a name and a value."""
    backend = results.backend
    shape = " × ".join(str(size) for size in results.image_shape)
    pairs = [
        ("data set", f"{results.dataset}, images {shape}"),
        ("images", ", ".join(f"{name} {count:,}" for name, count in results.counts.items())),
        ("data fingerprint", results.data_fingerprint),
        ("protocol", results.protocol),
        ("seed", str(results.seed)),
        ("backend asked", str(backend.get("asked") or "–")),
        ("backend used", str(backend.get("used") or "–")),
        ("why", str(backend.get("reason") or "")),
        ("device", str(backend.get("device") or "")),
        ("seconds", f"{results.seconds:.1f}" if results.seconds is not None else ""),
    ]
    pairs.insert(0, ("command", command(results.settings)))
    pairs += [(f"version of {name}", version) for name, version in results.versions.items()]
    return [(name, value) for name, value in pairs if value != ""]


def command(settings: dict[str, Any]) -> str:
    """The command line that gives these settings, every one spelled out."""
    words = ["vae-dist", "evaluate"]
    for name, value in settings.items():
        if value is None or value == []:
            continue
        words.append("--" + name.replace("_", "-"))
        words += map(str, value if isinstance(value, list) else [value])
    return shlex.join(words)


def number(value: float | int | None, digits: int, why: str = "") -> Cell:
    """A figure with this many digits; where there is none, a dash that sorts last, and why."""
    if value is None:
        return Cell("–", figure=True, hint=why)
    return Cell(f"{value:,.{digits}f}".replace("-", "−"), float(value), figure=True)


def _with_interval(line: dict[str, Any]) -> Cell:
    value, low, high = line["knn_test_accuracy"], line["ci_low"], line["ci_high"]
    if value is None:
        return Cell("–", figure=True, hint=line["blank"]["knn_test_accuracy"])
    note = f"[{low:.4f}, {high:.4f}]" if low is not None and high is not None else ""
    return Cell(f"{value:.4f}", value, note, figure=True)


def _word(value: str | None) -> Cell:
    return Cell(value, value) if value else Cell("–")


def _plain(row: Row, name: str) -> str | int | float | None:
    value: str | int | float | None = getattr(row, name)
    return round(value, 6) if isinstance(value, float) else value
