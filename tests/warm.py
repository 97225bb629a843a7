"""Commands in real processes that need not import torch first: forked from a server that has it.

They run the same `main` on the same words as the user's command line, with signals, exit codes
and output of their own; only the seconds of importing are saved.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

WARM = (
    "launch.train", "launch.evaluate", "launch.prepare", "launch.sample", "vae_dist.train.trainer",
    "evaluation.report", "sympy", "torch._dynamo", "torch.utils.tensorboard", "tyro._backends",
    "data_pipeline.load.memory", "data_pipeline.load.stream", "fsspec.implementations.http", "sklearn.neighbors",
)  # fmt: skip
"""What the commands import while they run."""

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(list(WARM))


def run_words(words: list[str], prepare: Callable[[], None] | None = None) -> int:
    """Run ``vae-dist WORDS`` in this process; its exit code.

    Parameters
    ----------
    words : list of str
        The command and its flags.
    prepare : callable, optional
        Called first, to put a fault into the program.
    """
    import torch

    from launch.cli import MODULES, guard

    # After a fork torch makes its thread pool again in the first thread that asks; where several
    # of autograd's threads ask at once, one finds none and aborts ("Invalid thread pool!").
    torch.set_num_threads(torch.get_num_threads())
    name, *flags = words
    main = importlib.import_module(f"launch.{MODULES.get(name, name)}").main
    if name == "train":
        from vae_dist.train.signals import StopRequest

        main = functools.partial(main, stop=StopRequest().install())
    if prepare is not None:
        prepare()
    try:
        return guard(main, flags)
    except Exception:
        traceback.print_exc()
        return 1


def _child(words: list[str], environment: dict[str, str], cwd: str, out: str, err: str) -> None:
    for number, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.exit(run_words(words))


class WarmProcess:
    """``vae-dist WORDS`` as a process, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, words: list[str], env: dict[str, str], cwd: Path | None = None) -> None:
        self._place = tempfile.TemporaryDirectory(prefix="vae-dist-warm-")
        self._files = [str(Path(self._place.name, name)) for name in ("out", "err")]
        for path in self._files:
            Path(path).touch()
        self._process = CONTEXT.Process(
            target=_child, args=(words, env, str(cwd or Path.cwd()), *self._files)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        """Its exit code; negative: the signal that ended it; None while it runs."""
        return self._process.exitcode

    poll = returncode.fget  # type: ignore[attr-defined]

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it without asking."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 120) -> int:
        """Wait for its end."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            self.kill()
            raise subprocess.TimeoutExpired("vae-dist", timeout)
        return self._process.exitcode

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        """Wait for its end; what it wrote to stdout and stderr."""
        self.wait(timeout)
        out, err = (Path(path).read_text(errors="replace") for path in self._files)
        return out, err


def run_warm(
    words: list[str], env: dict[str, str], cwd: Path | None = None, timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run ``vae-dist WORDS`` to its end, as `subprocess.run` does."""
    process = WarmProcess(words, env, cwd)
    out, err = process.communicate(timeout)
    return subprocess.CompletedProcess(words, process.wait(), out, err)
