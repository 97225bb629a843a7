"""The report's tables as plain values; the template writes and escapes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evaluation.folder import Folder
from evaluation.results import TEST_FIGURE, Results, Row

# Columns of the headline table: key of `leaderboard`, heading, digits, what it means.
_SCORES = (
    ("trustworthiness", "trustworthiness", 4, "share of kept neighbourhoods, 1 is best"),
    ("linear_probe_accuracy", "linear probe", 4, "test accuracy of a linear classifier"),
    ("silhouette", "silhouette", 3, "separation of the classes, −1 to 1"),
    ("kmeans_nmi", "k-means NMI", 3, "agreement of clusters with classes, 0 to 1"),
    ("ssim", "SSIM", 4, "of reconstructions from z = mu, window 5"),
    ("psnr", "PSNR (dB)", 2, "of reconstructions from z = mu"),
    ("elbo", "ELBO (nats)", 2, "an image, higher is better"),
    ("nll", "NLL (nats)", 2, "an image, importance-weighted, lower is better"),
    ("seconds", "seconds", 1, "to make the embedding"),
)
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


@dataclass(frozen=True)
class Table:
    """Headings with explanations, and rows of cells."""

    headings: list[tuple[str, str]]
    rows: list[list[Cell]]


def headline(folder: Folder) -> Table:
    """One line an embedding, the best test accuracy first, with 95 % intervals."""
    board = folder.board
    columns = [column for column in _SCORES if any(line[column[0]] is not None for line in board)]
    labels = TEST_FIGURE["labels_per_class"]
    headings = [("method", ""), ("dimensions", "")]
    tested = any(line["knn_test_accuracy"] is not None for line in board)
    if tested:
        headings += [
            ("KNN test accuracy", f"{labels} labels a class, at the best k; 95 % interval"),
            ("k", "neighbours"),
        ]
    headings += [(heading, note) for _, heading, _, note in columns]
    headings += [("backend", "")]
    rows = []
    for line in board:
        cells = [Cell(line["title"], line["title"], line["embedding"]), number(line["dim"], 0)]
        if tested:
            cells += [_with_interval(line), number(line["k"], 0)]
        cells += [number(line[key], digits) for key, _, digits, _ in columns]
        cells += [Cell(line["backend"], line["backend"])]
        rows.append(cells)
    return Table(headings, rows)


def run_table(results: Results) -> Table:
    """The trained runs that were evaluated."""
    headings = [
        ("run", ""), ("model", ""), ("latents", ""), ("parameters", ""), ("step", ""),
        ("path", ""), ("checkpoint (SHA-256)", ""),
    ]  # fmt: skip
    rows = []
    for run in results.runs:
        kind = str(run.model.get("model_type", "–"))
        rows.append(
            [
                Cell(run.name, run.name), Cell(kind, kind), number(run.latent_size, 0),
                number(run.num_parameters, 0), number(run.step, 0), Cell(run.path, run.path),
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
    pairs += [(name, str(value)) for name, value in results.settings.items()]
    pairs += [(f"version of {name}", version) for name, version in results.versions.items()]
    return [(name, value) for name, value in pairs if value != ""]


def number(value: float | int | None, digits: int) -> Cell:
    """A figure with this many digits; where there is none, a dash that sorts last."""
    if value is None:
        return Cell("–", figure=True)
    return Cell(f"{value:,.{digits}f}".replace("-", "−"), float(value), figure=True)


def _with_interval(line: dict[str, Any]) -> Cell:
    value, low, high = line["knn_test_accuracy"], line["ci_low"], line["ci_high"]
    if value is None:
        return Cell("–", figure=True)
    note = f"[{low:.4f}, {high:.4f}]" if low is not None and high is not None else ""
    return Cell(f"{value:.4f}", value, note, figure=True)


def _word(value: str | None) -> Cell:
    return Cell(value, value) if value else Cell("–")


def _plain(row: Row, name: str) -> str | int | float | None:
    value: str | int | float | None = getattr(row, name)
    return round(value, 6) if isinstance(value, float) else value
