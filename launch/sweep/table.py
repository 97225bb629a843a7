"""The table of all trainings of a sweep: settings, state and the figures of the best validation."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Sequence
from typing import Any

from data_pipeline.redact import shown
from launch.sweep.runs import best_of, place_of, status_of, write_beside
from launch.sweep.trainings import Training

FIGURES = ("loss", "recon", "kl", "elbo", "ssim", "psnr")


def make_table(trainings: Sequence[Training], name: str, runs_dir: str) -> None:
    """Write ``RUNS_DIR/NAME.csv``, whole, and show it; several tasks may do so."""
    rows = [describe(training, runs_dir) for training in trainings]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_beside(runs_dir, f"{name}.csv", text.getvalue().encode())
    show(rows)
    done = sum(row["state"] == "done" for row in rows)
    print(f"{done} of {len(rows)} trainings are done: {shown(place_of(runs_dir, f'{name}.csv'))}")


def describe(training: Training, runs_dir: str) -> dict[str, Any]:
    """A row of the table: settings, state, and the figures of the best validation."""
    status = status_of(runs_dir, training.name)
    row: dict[str, Any] = {"run": training.name, **training.values}
    row |= {"state": status.get("state", "not started"), "step": status.get("step")}
    best = best_of(runs_dir, training.name)
    return row | {name: best.get(name) for name in FIGURES}


def show(rows: Sequence[dict[str, Any]]) -> None:
    """The table on a terminal, lowest loss first."""
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for name in rows[0]:
        table.add_column(name)
    ordered = sorted(rows, key=lambda row: float("inf") if row["loss"] is None else row["loss"])
    for row in ordered:
        table.add_row(*(_cell(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 160).print(table)


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
