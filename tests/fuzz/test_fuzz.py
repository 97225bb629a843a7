"""Some hundred damaged files, hostile ones, and every file that was once read wrongly."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from data_pipeline.errors import UserError
from tests.fuzz.sandbox import FINDING, READ, REFUSED, Watch, run_all

ROOT = Path(__file__).parents[2]


def test_damaged_and_hostile_files_are_read_or_refused() -> None:
    """Each in one line, without running code, leaving the folder, or taking more than 1 GB.

    In a process of its own: it forks, and imports what the commands import.
    """
    words = [sys.executable, "-m", "tests.fuzz.run", "--inputs", "200", "--seed", "5"]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_watch_sees_what_a_careless_reader_does(tmp_path: Path) -> None:
    """Else the fuzzer could find nothing."""
    folder = tmp_path / "folder"
    folder.mkdir()
    beside = tmp_path / "beside"
    readers = {
        "": lambda: (folder / "own").write_text("x"),
        "UserError": lambda: _raise(UserError("no")),
        "ZeroDivisionError": lambda: 1 / 0,
        "a message of": lambda: _raise(UserError("x" * 9999)),
        "MemoryError": lambda: bytearray(2 << 30),
        "open for writing": lambda: beside.write_text("x"),
        "os.mkdir": beside.mkdir,
        "os.system": lambda: os.system("true"),
        "subprocess.Popen": lambda: subprocess.run(["true"]),
        "crash: SIGSYS": lambda: os.kill(os.getpid(), signal.SIGSYS),
    }
    tries = [lambda watch, r=reader: watch.read(r, folder) for reader in readers.values()]
    outcomes = list(run_all(tries))
    assert [o.result for o in outcomes[:2]] == [READ, REFUSED]
    for name, outcome in list(zip(readers, outcomes, strict=True))[2:]:
        assert outcome.result == FINDING
        assert name in outcome.text


def test_the_watch_ends_a_reader_that_hangs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("tests.fuzz.sandbox.CPU_SECONDS", 0.2)

    def hang(watch: Watch):
        return watch.read(lambda: sum(iter(int, 1)), tmp_path)

    (outcome, other) = run_all([hang, lambda watch: watch.read(lambda: None, tmp_path)])
    assert outcome.text == "hang: SIGPROF"
    assert other.result == READ


def _raise(error: Exception) -> None:
    raise error
