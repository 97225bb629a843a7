"""Compare PCA, UMAP and VAEs: ``vae-dist evaluate``, ``accelerate launch launch/evaluate.py``."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # a launcher runs this file: put the project, not launch/, on the path
    sys.path[0] = sys.path[0] + "/.."

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TextIO

from evaluation.evaluation import EvaluateConfig, evaluate
from evaluation.items import TITLES
from evaluation.results.blanks import blanks, not_made
from evaluation.results.leaderboard import leaderboard
from evaluation.results.records import Results
from evaluation.results.seeds import over_seeds
from launch.cli import guard
from launch.config import parse
from launch.processes import check_accelerate, check_device, join

DESCRIPTION = """Compare PCA, UMAP and trained VAEs by how much their embeddings tell of the labels.

Under torchrun or accelerate launch the processes share the encoding. A run that cannot be read is
skipped and listed at the end; the exit code is then 1, and all the others are in the report."""

COMMON = (
    *("runs", "data", "out", "protocol", "methods", "dims", "backend", "which", "repeats"),
    *("nll_samples", "fresh", "json"),
)
SHOWN = ("knn_test_accuracy", "interval", "trustworthiness", "ssim", "elbo")  # by the table
OF_FACTORS = {"mig": "MIG", "dci_disentanglement": "DCI"}  # by the table where they are known


@dataclasses.dataclass(kw_only=True)
class EvaluateOutputConfig:
    """What is printed."""

    json: bool = False
    """Print the leaderboard and what failed as one JSON object, and nothing else, to stdout."""
    cpu: bool = False
    """Run models on the CPU, also where there is a GPU."""
    projector: Path | None = None
    """Folder for the embeddings and a sprite of images, for tensorboard --logdir FOLDER."""
    atlas: Path | None = None
    """A Parquet file of every test image with its maps, for embedding-atlas FILE."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist evaluate ARGV``; returns the exit code."""
    processes = join()
    config, output = parse(
        "evaluate", [EvaluateConfig, EvaluateOutputConfig], argv, DESCRIPTION, COMMON
    )
    if output.atlas is not None:
        from evaluation.report.atlas import check_pyarrow

        check_pyarrow(output.atlas)
    check_accelerate(os.environ)
    import torch

    check_device(processes, os.environ, 0 if output.cpu else torch.cuda.device_count())
    from data_pipeline.order import World
    from vae_dist.train.accelerator import join_processes

    state = join_processes(output.cpu)
    tell = Progress(sys.stderr) if state.is_main_process else _silent
    results = evaluate(
        config,
        world=World(state.process_index, state.num_processes),
        device=str(state.device),
        wait=_patient_wait(state.num_processes),
        agree=_agree,
        tell=tell,
    )
    if results is None:
        return 0
    out = config.out or Path("eval") / results.dataset
    if output.projector is not None:
        from evaluation.report.projector import write_projector

        write_projector(out, output.projector)
    if output.atlas is not None:
        from evaluation.report.atlas import write_atlas
        from evaluation.state import open_data_of

        names = write_atlas(out, open_data_of(config), output.atlas)
        if not output.json and names:
            x, y = f"{names[0]}_x", f"{names[0]}_y"
            print(f"atlas: embedding-atlas {output.atlas} --image image --x {x} --y {y}")
    if output.json:
        print(json.dumps(summary(results)))
    else:
        print_table(results)
        print(
            f"{'report' if config.report else 'results'}: {out}/{'report.html' if config.report else 'results.json'}"
        )
    return 1 if results.failed else 0


class Progress:
    """Prints lines; one that ends with "…" waits for its rest, which is the line's next form."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._waiting = stream, ""

    def __call__(self, line: str) -> None:
        """Print a line, or the rest of the one that waits."""
        if self._waiting and line.startswith(self._waiting):
            self._stream.write(line.removeprefix(self._waiting))
        else:
            self._stream.write(("\n" if self._waiting else "") + f"  {line}")
        self._waiting = line if line.endswith("…") else ""
        self._stream.write("" if self._waiting else "\n")
        self._stream.flush()


def summary(results: Results) -> dict[str, object]:
    """What ``--json`` prints."""
    return {
        "dataset": results.dataset,
        "protocol": results.protocol,
        "backend": results.backend,
        "seconds": results.seconds,
        "leaderboard": leaderboard(results),
        "over_seeds": [dataclasses.asdict(row) for row in over_seeds(results)],
        "warnings": results.warnings,
        "failed": [dataclasses.asdict(failure) for failure in results.failed],
        "not_made": [dataclasses.asdict(one) for one in results.not_made],
    }


def print_table(results: Results) -> None:
    """The leaderboard, for a terminal."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    title = (
        f"{results.dataset}: {results.counts['test']:,} test images, protocol {results.protocol}"
    )
    table = Table(title=title, title_justify="left")
    board = leaderboard(results)
    of_factors = {
        metric: name
        for metric, name in OF_FACTORS.items()
        if any(line[metric] is not None for line in board)
    }
    for column in (
        "embedding",
        "KNN test",
        "k",
        "± (95 %)",
        "trustworthiness",
        "SSIM",
        "ELBO",
        *of_factors.values(),
    ):
        table.add_column(column, justify="left" if column == "embedding" else "right")
    for line in board:
        bounds = "–" if line["ci_low"] is None else f"{(line['ci_high'] - line['ci_low']) / 2:.4f}"
        table.add_row(
            line["title"],
            _figure(line["knn_test_accuracy"], 4),
            _figure(line["k"], 0),
            bounds,
            _figure(line["trustworthiness"], 4),
            _figure(line["ssim"], 4),
            _figure(line["elbo"], 2),
            *(_figure(line[metric], 3) for metric in of_factors),
        )
    console.print(table)
    for reason in not_made(results) + blanks(board, (*SHOWN, *of_factors)):
        console.print(f"–  {reason}", markup=False, soft_wrap=True)
    for row in over_seeds(results):
        if (row.metric, row.weights, row.k) == ("knn_test_accuracy", "uniform", 10):
            half = ((row.ci_high or 0.0) - (row.ci_low or 0.0)) / 2
            console.print(
                f"{TITLES.get(row.method, row.method)} {row.dim} over {row.repeats} trainings that differ in their "
                f"seed: KNN test {row.value:.4f} ± {half:.4f} at k = 10 ({row.run})",
                markup=False,
                soft_wrap=True,
            )
    for failure in results.failed:
        console.print(f"skipped: {failure.run}: {failure.error}", markup=False, soft_wrap=True)


def _figure(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _patient_wait(processes: int) -> Callable[[], None]:
    """A barrier that waits as long as the first process works: UMAP of a large set takes hours.

    A process that dies closes its connections and so ends the others' wait at once.
    """
    if processes == 1:
        return lambda: None
    from datetime import timedelta

    from torch import distributed

    group = distributed.new_group(backend="gloo", timeout=timedelta(days=30))
    assert isinstance(group, distributed.ProcessGroup)

    def wait() -> None:
        distributed.barrier(group=group)

    return wait


def _agree(fault: str) -> str:
    """The first fault that any process has."""
    from accelerate.utils import gather_object

    return next(filter(None, gather_object([fault])), "")


def _silent(line: str) -> None:
    pass


if __name__ == "__main__":
    sys.exit(guard(main, sys.argv[1:]))
