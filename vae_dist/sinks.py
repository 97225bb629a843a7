"""Where a run's figures go: the console, JSON lines and Accelerate's trackers.

Only the main process has real sinks; the others hold a `NullSink`, so the loop never asks.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np
from rich.console import Console as RichConsole
from tyro.conf import arg

from data_pipeline.checks import AtLeast, check_fields
from data_pipeline.errors import files_of_user
from data_pipeline.files import write_whole
from vae_dist.run.metrics_lines import read_metrics, without_nan
from vae_dist.trackers import Trackers, check_tracker, start_trackers

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vae_dist.train.settings import Settings

SSIM_STEPS = 50
"""Fewest steps from one record of training with SSIM to the next."""


@dataclasses.dataclass(kw_only=True)
class LogConfig:
    """Logging: what is written down, and how often."""

    log_every: Annotated[int, AtLeast(1), arg(aliases=["--print-freq"])] = 10
    """Steps from one line of training figures to the next."""
    console: bool = True
    """Say on the terminal how the training goes; False: only faults and warnings."""
    tensorboard: bool = True
    """Write TensorBoard scalars into the run folder."""
    tensorboard_images: bool = True
    """Also write a panel of up to 40 validation images over their reconstructions."""
    tracker: list[str] = dataclasses.field(default_factory=list)
    """More trackers of Accelerate's: wandb, mlflow, aim, comet_ml, clearml, dvclive ..."""
    project: str = "vae-dist"
    """Project of those trackers; the run in it has the run's name."""

    @property
    def ssim_every(self) -> int:
        """Steps from one SSIM of training images to the next: it costs as much as a small step."""
        return self.log_every * -(-SSIM_STEPS // self.log_every)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in self.tracker:
            check_tracker(name)


class Sink(Protocol):
    """What the trainer may call."""

    def record(self, figures: dict[str, Any]) -> None:
        """Take one line of ``metrics.jsonl``: ``split``, ``step``, ``epoch`` and figures."""

    def scalars(self, figures: dict[str, float], step: int) -> None:
        """Take more numbers for the trackers, by tag."""

    def epoch(self, number: int, train: dict[str, float], val: dict[str, float]) -> None:
        """Take the figures of a whole epoch."""

    def images(self, panel: np.ndarray, step: int) -> None:
        """Take a picture, uint8 (H, W, 3)."""

    def say(self, line: str) -> None:
        """Tell the user one line."""

    def show(self, renderable: Any) -> None:
        """Show the user a table or the like (a rich renderable)."""

    def flush(self) -> None:
        """Write out what was taken so far."""

    def close(self) -> None:
        """Flush and release everything."""


class NullSink:
    """Takes everything, keeps nothing: the other ranks' sink."""

    def record(self, figures: dict[str, Any]) -> None: ...
    def scalars(self, figures: dict[str, float], step: int) -> None: ...
    def epoch(self, number: int, train: dict[str, float], val: dict[str, float]) -> None: ...
    def images(self, panel: np.ndarray, step: int) -> None: ...
    def say(self, line: str) -> None: ...
    def show(self, renderable: Any) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class JsonLines(NullSink):
    """``metrics.jsonl``: one object a line.

    Parameters
    ----------
    path : Path
        The file; lines of steps after `step` are dropped first, since a resumed run writes
        them again, and so are damaged ones.
    step : int
        The step the run starts from.

    Attributes
    ----------
    notes : list of str
        What has to be said of the lines that were there.
    """

    def __init__(self, path: Path, step: int) -> None:
        records, damaged = read_metrics(path)
        kept = [json.dumps(record) + "\n" for record in records if record["step"] <= step]
        write_whole(path, "".join(kept).encode())
        self.notes = []
        if damaged:
            self.notes.append(f"{path}: dropped {damaged} damaged line(s), as a power cut leaves")
        if len(kept) < len(records):
            again = f"{len(records) - len(kept)} line(s) of steps after {step}"
            self.notes.append(f"{path}: dropped {again}, which are written again")
        self._file = path.open("a", encoding="utf-8", buffering=1)

    def record(self, figures: dict[str, Any]) -> None:
        self._file.write(json.dumps(without_nan(figures)) + "\n")

    def close(self) -> None:
        self._file.close()


ON_THE_BAR = ("loss", "recon", "kl")
"""Figures that fit beside a progress bar of 80 columns."""


class Console(NullSink):
    """A rich progress bar on a terminal, plain lines elsewhere.

    Parameters
    ----------
    total_steps : int
        Optimizer steps of the whole run.
    """

    def __init__(self, total_steps: int) -> None:
        self._progress = None
        if sys.stdout.isatty():
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TaskProgressColumn,
                TextColumn,
                TimeRemainingColumn,
            )
            from rich.table import Column

            # One line at 80 columns: what does not fit is cut, never wrapped.
            figures = Column(no_wrap=True, overflow="ellipsis", ratio=1)
            self._progress = Progress(
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(bar_width=12),
                TaskProgressColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.description}", table_column=figures),
                expand=True,
            )
            self._task = self._progress.add_task("starting", total=total_steps)
            self._progress.start()

    def record(self, figures: dict[str, Any]) -> None:
        text = describe(figures)
        if self._progress is not None:  # a validation too: the last one brings the bar to its end
            short = describe({k: v for k, v in figures.items() if k in ON_THE_BAR})
            self._progress.update(self._task, completed=figures["step"], description=short)
        if figures["split"] == "val":
            self.say(f"val   {text}")
        elif self._progress is not None:
            return
        else:
            self.say(f"train {text}")

    def say(self, line: str) -> None:
        if self._progress is not None:
            self._progress.console.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)

    def show(self, renderable: Any) -> None:
        if self._progress is not None:
            self._progress.console.print(renderable)
        else:
            RichConsole(width=120).print(renderable)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()


class Sinks(NullSink):
    """Several sinks as one; what the disk refuses is the user's to see to."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks

    def _all(self, call: Callable[[Sink], None]) -> None:
        with files_of_user(
            "the run's figures cannot be written", "free some space and go on with --resume auto"
        ):
            for sink in self._sinks:
                call(sink)

    def record(self, figures: dict[str, Any]) -> None:
        self._all(lambda sink: sink.record(figures))

    def scalars(self, figures: dict[str, float], step: int) -> None:
        self._all(lambda sink: sink.scalars(figures, step))

    def epoch(self, number: int, train: dict[str, float], val: dict[str, float]) -> None:
        self._all(lambda sink: sink.epoch(number, train, val))

    def images(self, panel: np.ndarray, step: int) -> None:
        self._all(lambda sink: sink.images(panel, step))

    def say(self, line: str) -> None:
        self._all(lambda sink: sink.say(line))

    def show(self, renderable: Any) -> None:
        self._all(lambda sink: sink.show(renderable))

    def flush(self) -> None:
        self._all(lambda sink: sink.flush())

    def close(self) -> None:
        self._all(lambda sink: sink.close())


def open_sinks(
    settings: Settings, accelerator: Accelerator, run_dir: Path, step: int, total_steps: int
) -> Sink:
    """The main process's sinks: console, ``metrics.jsonl`` and the trackers.

    Parameters
    ----------
    settings : Settings
        ``settings.log`` says where; the trackers are given all of them.
    accelerator : Accelerator
        Made with ``settings.log.tracker``.
    run_dir : Path
    step, total_steps : int
        Where the run starts and ends, in optimizer steps.
    """
    path = run_dir / "metrics.jsonl"
    with files_of_user(f"{path}: cannot be written"):
        lines = JsonLines(path, step)
    sinks: list[Sink] = [lines, Console(total_steps) if settings.log.console else NullSink()]
    for note in lines.notes:
        sinks[1].say(note)
    if settings.log.tensorboard or settings.log.tracker:
        start_trackers(settings, accelerator, run_dir, step)
        sinks.append(Trackers(accelerator))
    return Sinks(*sinks)


def describe(figures: dict[str, Any]) -> str:
    """One line of figures for a person, in a fixed order."""
    formats = {
        "epoch": "epoch {:.2f}",
        "step": "step {}",
        "loss": "loss {:.2f}",
        "recon": "recon {:.2f}",
        "kl": "kl {:.2f}",
        "ssim": "ssim {:.4f}",
        "psnr": "psnr {:.2f} dB",
        "elbo": "elbo {:.2f}",
        "active_units": "active units {}",
        "images_per_second": "{:,.0f} images/s",
        "data_wait": "waiting for data {:.0%}",
        "memory_gib": "memory {:.2f} GiB",
    }
    known = ((text, figures.get(name)) for name, text in formats.items())
    return "  ".join(text.format(value) for text, value in known if value is not None)
