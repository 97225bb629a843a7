"""Train what is not done, one training after the other, each as a process of its own."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

import launch
from launch.sweep.runs import status_of
from launch.sweep.trainings import Training

TRAIN = Path(launch.__file__).parent / "train.py"
STOPPED = 75
"""Exit code of a training that was stopped after a complete checkpoint."""


def carry_out(
    trainings: Sequence[Training], runs_dir: str | Path, launcher: str, out: TextIO | None = None
) -> int:
    """Train what is not done, one after the other; the command's exit code.

    A training that fails does not stop the others. A signal is handed on, and once that training
    has saved, the command ends with 75 too. What is said goes to `out`, else to stdout.
    """
    failed = 0
    for training in trainings:
        if status_of(runs_dir, training.name).get("state") == "done":
            print(f"{training.name}: is done already", file=out, flush=True)
            continue
        start = [sys.executable, "-m", "launch.cli", "train"]
        if launcher:
            start = [*shlex.split(launcher), str(TRAIN)]
        where = ["--name", training.name, "--runs-dir", str(runs_dir), "--resume", "auto"]
        code = _run([*start, *training.flags, *where], out)
        said = "done" if code == 0 else f"exit code {code}"
        print(f"{training.name}: {said}", file=out, flush=True)
        if code == STOPPED or code < 0:
            return STOPPED
        failed += code != 0
    return 1 if failed else 0


def _run(words: list[str], out: TextIO | None) -> int:
    """A training as a process of its own, to which signals for the sweep are handed on."""
    with subprocess.Popen(words, stdout=out) as process:

        def hand_on(number: int, frame: FrameType | None) -> None:
            process.send_signal(number)

        handled = (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT)
        former = {number: signal.signal(number, hand_on) for number in handled}
        try:
            return process.wait()
        finally:
            for number, handler in former.items():
                signal.signal(number, handler)
