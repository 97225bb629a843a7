"""Inputs in a forked child: limits on memory and time, and a watch on what they do."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import resource
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import UserError

MEMORY = 1 << 30
"""Bytes that reading a file may take beside the program itself."""
CPU_SECONDS = 20
WALL_SECONDS = 600
LONGEST_MESSAGE = 1500

READ, REFUSED, FINDING = "read", "refused", "finding"

# Events of sys.addaudithook that a data file must never bring about.
RUNS_CODE = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen")
RUNS_CODE += ("pickle.find_class", "socket.connect")
ASKED = ("uname", "git", "lscpu")  # what Python and we ask about the machine
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.symlink")
CHANGES += ("os.truncate", "os.chmod", "os.chown", "shutil.rmtree", "shutil.move")


@dataclass(frozen=True)
class Outcome:
    """What became of an input: read, refused, or a finding with its text."""

    result: str
    text: str = ""


Try = Callable[["Watch"], Outcome]
"""Makes an input and reads it under the watch."""


def run_all(tries: Sequence[Try]) -> Iterator[Outcome]:
    """Run each try in a child process; one that dies is replaced, and the next go on in it."""
    done = 0
    while done < len(tries):
        pipe, pid = _start(tries[done:])
        for text in _lines(pipe):
            yield Outcome(*json.loads(text))
            done += 1
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if done < len(tries):
            name = signal.Signals(-code).name if code < 0 else f"exit {code}"
            late = name in ("SIGPROF", "SIGKILL")
            yield Outcome(FINDING, f"{'hang' if late else 'crash'}: {name}")
            done += 1


def _lines(pipe: int) -> Iterator[bytes]:
    """Lines that a child writes, until it is dead, or late with the next."""
    rest = b""
    while True:
        ready, _, _ = select.select([pipe], [], [], WALL_SECONDS)
        part = os.read(pipe, 1 << 16) if ready else b""
        if not part:
            break
        *lines, rest = (rest + part).split(b"\n")
        yield from lines
    os.close(pipe)


def _start(tries: Sequence[Try]) -> tuple[int, int]:
    ours, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    gc.freeze()  # else the collector copies every page of the parent's memory
    pid = os.fork()
    if pid:
        os.close(theirs)
        return ours, pid
    os.close(ours)
    try:
        quiet = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1, 2):
            os.dup2(quiet, number)
        watch = Watch()
        for one in tries:
            try:
                outcome = one(watch)
            except Exception:
                outcome = Outcome(FINDING, f"the harness itself: {traceback.format_exc()}")
            line = json.dumps([outcome.result, outcome.text[-6000:]]) + "\n"
            os.write(theirs, line.encode())
    finally:
        os._exit(0)


class Watch:
    """Limits this process, and notes what it does while it reads."""

    def __init__(self) -> None:
        self._folder: str | None = None
        self._done: list[str] = []
        self._limit()
        sys.addaudithook(self._hook)

    def read(self, reader: Callable[[], object], folder: Path) -> Outcome:
        """Call `reader` with `folder` as the working folder.

        A `UserError` counts as refused. Everything else is a finding: another exception, a
        message that is no line, more memory or time than allowed, a change outside of the
        folder, an attempt to run something.
        """
        self._done.clear()
        os.chdir(folder)
        tempfile.tempdir = str(folder)
        self._folder = str(folder.resolve())
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # its signal ends the process
        try:
            reader()
            outcome = Outcome(READ)
        except UserError as error:
            text = " ".join(str(error).split())
            outcome = Outcome(REFUSED, text)
            if len(text) > LONGEST_MESSAGE:
                outcome = Outcome(FINDING, f"a message of {len(text)} characters: {text[:300]}")
        except BaseException:
            outcome = Outcome(FINDING, traceback.format_exc())
        signal.setitimer(signal.ITIMER_PROF, 0)
        self._folder = None
        if self._done:
            return Outcome(FINDING, f"{outcome.text}\ndid {self._done[:3]}")
        return outcome

    @staticmethod
    def _limit() -> None:
        with open("/proc/self/status") as file:
            held = next(int(line.split()[1]) for line in file if line.startswith("VmData")) << 10
        # Of data, not of addresses: threads reserve far more than they use.
        resource.setrlimit(resource.RLIMIT_DATA, (held + MEMORY, held + MEMORY))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 29, 1 << 29))

    def _hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self._folder is None:
            return
        if event in RUNS_CODE:
            if str(arguments[0]) not in ASKED:
                self._done.append(f"{event} {str(arguments)[:200]}")
        elif event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and self._outside(path):
                self._done.append(f"open for writing {path!r} {mode}")
        elif event in CHANGES and any(self._outside(path) for path in arguments[:2]):
            self._done.append(f"{event} {arguments[:2]}")

    def _outside(self, path: object) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        where, folder = os.path.realpath(os.fsdecode(path)), self._folder
        allowed = (f"{folder}{os.sep}", os.devnull, "/dev/shm")
        return where != folder and not where.startswith(allowed)
