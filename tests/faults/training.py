"""Commands as processes that can be disturbed: warm (forked, the modules imported) or cold.

A warm command saves the seconds of importing torch and runs the same `main`; a cold one is the
user's own command line. Two ranks are torch's elastic launcher and its workers either way.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import psutil

from tests.faults.shim import Fault, arm
from tests.training_runs import ROOT, TRAIN
from tests.warm import run_words

LAUNCHER_SIGNALS = "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2"
PATIENCE = 240
"""Seconds after which a command counts as hung; the machine may be busy."""

# A launcher that is asked to end kills workers that do not, a stopped one say, after this long.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
    "PYTHONWARNINGS": "ignore",
    "PET_SIGNALS_TO_HANDLE": LAUNCHER_SIGNALS,
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "15",
    "CUDA_VISIBLE_DEVICES": "",
}


class Hung(AssertionError):
    """A command did not end in time."""


class Command:
    """A ``vae-dist`` command under way.

    Parameters
    ----------
    place : Path
        Its output goes into files here.
    words : list of str
        The command and its flags.
    ranks : int
        1: a plain process; else that many under torch's launcher.
    cold : bool
        Start Python anew.
    fault : Fault, optional
        What fails in every process of it.
    prepare : callable, optional
        Called first in each rank of a warm command, to put a fault into the program itself.
    """

    def __init__(
        self,
        place: Path,
        words: list[str],
        *,
        ranks: int = 1,
        cold: bool = False,
        fault: Fault | None = None,
        prepare: Callable[[], None] | None = None,
    ) -> None:
        self.logs = place / f"log-{time.monotonic_ns()}"
        self.logs.mkdir(parents=True)
        self.fired = self.logs / "fired"
        self.words, self.ranks, self.prepare = words, ranks, prepare
        text = fault.text(self.fired) if fault else ""
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            self._child(cold, text)

    def _child(self, cold: bool, fault: str) -> None:
        """Become the command; does not return."""
        code = 1
        try:
            os.setsid()
            for number, name in ((1, "out"), (2, "err")):
                os.dup2(os.open(self.logs / name, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
            os.chdir(self.logs)
            os.environ.update(ENVIRONMENT | ({"FAULT": fault} if fault else {}))
            if cold:
                command = self._cold_words()
                os.execv(command[0], command)
            arm(fault)
            code = self._warm()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _cold_words(self) -> list[str]:
        name, *flags = self.words
        script = str(TRAIN) if name == "train" else str(ROOT / "launch" / "cli.py")
        words = [script, *flags] if name == "train" else ["-m", "launch.cli", *self.words]
        if self.ranks == 1:
            return [sys.executable, *words]
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        launcher += ["--redirects=3", f"--log-dir={self.logs}"]
        return [*launcher, f"--nproc-per-node={self.ranks}", script, *flags]

    def _warm(self) -> int:
        if self.ranks == 1:
            return self._rank()
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=self.ranks,
            logs_specs=DefaultLogsSpecs(str(self.logs), redirects=Std.ALL),
            run_id=self.logs.name,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            start_method="fork",
            signals_to_handle=LAUNCHER_SIGNALS,
            shutdown_timeout=int(ENVIRONMENT["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"]),
        )
        elastic_launch(config, self._worker)()
        return 0

    def _worker(self) -> None:
        launcher, code = os.getppid(), self._rank()
        # torch's wrapper of a forked worker would wait for ever for a launcher that was killed.
        threading.Thread(target=_end_without, args=(launcher, code), daemon=True).start()
        sys.exit(code)

    def _rank(self) -> int:
        return run_words(self.words, self.prepare)

    def workers(self) -> list[int]:
        """Process ids of the ranks that have started."""
        if self.ranks == 1:
            return [self.pid]
        with contextlib.suppress(psutil.NoSuchProcess):
            return [child.pid for child in psutil.Process(self.pid).children()]
        return []

    def send(self, number: int, to: str) -> None:
        """Send a signal to a ``rank`` (the last), the ``launcher`` or the whole ``group``."""
        workers = self.workers()
        with contextlib.suppress(ProcessLookupError):
            if to == "group":
                os.killpg(self.pid, number)
                for worker in workers:  # torch's launcher gives some a session of their own
                    if os.getpgid(worker) != self.pid:
                        os.kill(worker, number)
            else:
                os.kill(workers[-1] if to == "rank" and workers else self.pid, number)

    def running(self) -> bool:
        """Whether it has not ended."""
        if self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
        return self.code is None

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end and the end of all its processes; the exit code (negative: signal)."""
        family = self._family()
        until = time.monotonic() + seconds
        while self.running() or any(process.is_running() for process in family):
            family = [p for p in family if p.is_running() and p.status() != "zombie"]
            if time.monotonic() > until:
                self.end()
                raise Hung(f"not over after {seconds:g} s: {' '.join(self.words)}")
            time.sleep(0.01)
        assert self.code is not None
        return self.code

    def _family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            return psutil.Process(self.pid).children(recursive=True)
        return []

    def end(self) -> None:
        """Kill whatever is left."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        while self.running():
            time.sleep(0.01)

    def errors(self) -> list[str]:
        """What each rank wrote to stderr."""
        files = (
            [self.logs / "err"] if self.ranks == 1 else sorted(self.logs.glob("*/*/*/stderr.log"))
        )
        return [file.read_text(errors="replace") for file in files if file.exists()]

    def said(self) -> str:
        """All output, for a finding."""
        files = [f for f in sorted(self.logs.rglob("*")) if f.is_file() and f.name != "fired"]
        return "\n".join(f"== {f.name}\n{f.read_text(errors='replace')[-2500:]}" for f in files)


def _end_without(launcher: int, code: int) -> None:
    """End this process once its launcher is gone."""
    while os.getppid() == launcher:
        time.sleep(0.05)
    os._exit(code)


def wait_for_step(command: Command, run: Path, step: int) -> None:
    """Wait until a run's status says that it has come so far, or its command has ended."""
    until = time.monotonic() + PATIENCE
    while command.running() and status(run).get("step", -1) < step and time.monotonic() < until:
        time.sleep(0.005)


def status(run: Path) -> dict[str, object]:
    """``status.json`` of a run; empty while there is none."""
    try:
        return json.loads((run / "status.json").read_text())
    except FileNotFoundError:
        return {}
