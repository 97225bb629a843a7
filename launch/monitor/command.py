"""``vae-dist monitor RUN``: watch a run, live or finished, all ranks."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from rich.console import Console
from rich.live import Live
from tyro.conf import Positional

from data_pipeline.checks import Above, check_fields
from data_pipeline.errors import UserError
from data_pipeline.remote.reading import is_remote
from launch.config import parse
from launch.monitor.reader import RunReader
from launch.monitor.view import frame

FETCH_SECONDS = 10.0
"""How often the logs of a run at an address are fetched."""


@dataclasses.dataclass(kw_only=True)
class MonitorConfig:
    """What to watch, and how often to look."""

    run: Annotated[str | None, Positional] = None
    """The run folder, here or on a shared file system, or its address; without it the one in
    RUNS_DIR that changed last."""
    runs_dir: Path = Path("runs")
    """Folder of all runs."""
    once: bool = False
    """Show one frame and leave."""
    refresh: Annotated[float, Above(0)] = 1.0
    """Seconds between two frames."""

    def __post_init__(self) -> None:
        check_fields(self)


def newest_run(runs_dir: Path) -> Path:
    """Find the run whose status changed last.

    Raises
    ------
    ValueError
        If there is none.
    """
    found = sorted(runs_dir.glob("*/status.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise UserError(f"{runs_dir}: holds no run; name one, as in: vae-dist monitor runs/NAME")
    return found[-1].parent


def open_run(config: MonitorConfig) -> RunReader:
    """The run to watch; one at an address is fetched again from time to time."""
    if config.run is None:
        return RunReader(newest_run(config.runs_dir))
    if not is_remote(config.run):
        return RunReader(Path(config.run))
    from vae_dist.mirror.fetch import local_copy

    folder, fetched = local_copy(config.run, logs_only=True), time.monotonic()

    def bring() -> None:
        nonlocal fetched
        if time.monotonic() - fetched > FETCH_SECONDS:
            local_copy(str(config.run), logs_only=True)
            fetched = time.monotonic()

    return RunReader(folder, bring)


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist monitor ARGV``; returns the exit code."""
    (config,) = parse(
        "monitor", [MonitorConfig], _spell_once(argv), "Watch a run, live or finished."
    )
    run = open_run(config)
    run.update()
    try:
        if config.once or run.ended:
            show(run)
        elif sys.stdout.isatty():
            watch(run, config.refresh)
        else:
            follow(run, config.refresh)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:  # the reader of the pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _spell_once(argv: Sequence[str]) -> list[str]:
    """Let the run follow a bare ``--once``, whose value it would else be taken for."""
    following = [*argv[1:], ""][: len(argv)]
    return [
        "--once=True" if word == "--once" and after.lower() not in ("true", "false") else word
        for word, after in zip(argv, following, strict=True)
    ]


def make_console() -> Console:
    """A console; where there is no terminal, COLUMNS wide (100 unless set)."""
    if sys.stdout.isatty():
        return Console()
    width = os.environ.get("COLUMNS", "")
    return Console(width=int(width) if width.isdecimal() and int(width) else 100)


def show(run: RunReader) -> None:
    """Print one frame."""
    console = make_console()
    console.print(frame(run, console.width))
    sys.stdout.flush()


def watch(run: RunReader, refresh: float) -> None:
    """Redraw a frame in place until the run ends."""
    console = Console()
    with Live(frame(run, console.width), console=console, auto_refresh=False) as live:
        while not run.ended:
            time.sleep(refresh)
            run.update()
            live.update(frame(run, console.width), refresh=True)


def follow(run: RunReader, refresh: float) -> None:
    """Print a frame after each change, for a pipe or a file."""
    shown = None
    while True:
        seen = (run.status.get("time"), len(run.train) and run.train[-1].get("step"), run.ended)
        if seen != shown:
            show(run)
            shown = seen
        if run.ended:
            return
        time.sleep(refresh)
        run.update()
