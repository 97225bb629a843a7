"""``vae-dist demo``: the whole job on one data set, each stage a command of its own."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.table import Table

from data_pipeline.checks import AtLeast, OneOf, check_fields
from launch.config import parse

ROOT = Path(__file__).parent.parent


@dataclasses.dataclass(kw_only=True)
class DemoConfig:
    """The demo: which images, and where its files go."""

    dataset: Annotated[str, OneOf("fmnist", "mnist", "digits")] = "fmnist"
    """fmnist, mnist, or digits (which needs neither network nor files)."""
    epochs: Annotated[int, AtLeast(1)] = 30
    """Epochs of the 2018 article's best model, fc_conv with 10 latents."""
    out: Path = Path()
    """Folder below which data/, runs/ and eval/ are made."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(argv: Sequence[str]) -> int:
    """Prepare, train and evaluate; stages whose result is there already do nothing."""
    (demo,) = parse("demo", [DemoConfig], argv, "Prepare, train, evaluate: the whole job.")
    name = f"demo_{demo.dataset}"
    data, run = demo.out / "data" / demo.dataset, demo.out / "runs" / name
    report = demo.out / "eval" / name
    cli = [sys.executable, "-m", "launch.cli"]
    train = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1"]
    train += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    train += [str(ROOT / "launch" / "train.py"), "--preset", "article2018_best", "--name", name]
    train += ["--dataset", demo.dataset, "--data", str(data), "--runs-dir", str(run.parent)]
    train += ["--epochs", str(demo.epochs), "--resume", "auto", "--log-every", "100"]
    if demo.dataset == "digits":  # 1,149 training images: more, smaller steps
        train += ["--batch-size", "32"]
    stages = {
        "prepare": [*cli, "prepare", "--dataset", demo.dataset, "--out", str(data)],
        "train": train,
        "evaluate": [
            *cli,
            "evaluate",
            "--runs",
            str(run),
            "--data",
            str(data),
            "--out",
            str(report),
        ],
    }
    seconds = {}
    for stage, command in stages.items():
        print(f"\n== {stage} ==", flush=True)
        started = time.perf_counter()
        code = subprocess.run(command).returncode
        seconds[stage] = time.perf_counter() - started
        if code:
            print(f"demo: {stage} ended with exit code {code}", file=sys.stderr)
            return code
    table = Table("stage", "seconds", title="Time by stage")
    for stage, taken in seconds.items():
        table.add_row(stage, f"{taken:.1f}")
    table.add_row("all", f"{sum(seconds.values()):.1f}")
    Console().print(table)
    print(f"report: {report / 'report.html'}")
    return 0
