"""A lock names its owner, and what a killed owner leaves behind stops nobody."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from data_pipeline import lock as module
from data_pipeline.errors import UserError
from data_pipeline.lock import Lock
from tests.training_runs import environment

HOLD = """
import sys, time
from pathlib import Path
from data_pipeline.errors import UserError
from data_pipeline.lock import Lock
lock = Lock(Path(sys.argv[1]), "it: is held")
try:
    lock.acquire()
except UserError:
    print("refused", flush=True); sys.exit(2)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def hold(path: Path, seconds: float = 60.0) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", HOLD, str(path), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment())


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def fast(path: Path) -> Lock:
    return Lock(path, "runs/a: is being trained", heartbeat=0.05, stale=0.3)


def foreign(path: Path, **changes: Any) -> Path:
    """A lock as a process of another machine leaves it."""
    owner = dataclasses.asdict(module.myself()) | {"machine": "another", "host": "node9"}
    path.write_text(json.dumps(owner | changes))
    return path


def test_an_owner_that_lives_is_named(tmp_path: Path) -> None:
    process = hold(tmp_path / "lock.json")
    assert said(process) == "held"
    with pytest.raises(UserError, match=f"is being trained already .*process {process.pid}") as e:
        fast(tmp_path / "lock.json").acquire()
    owner = json.loads((tmp_path / "lock.json").read_text())
    for part in (owner["user"], owner["host"], owner["since"], str(tmp_path / "lock.json")):
        assert part in str(e.value)
    process.kill()
    process.wait()
    taken = fast(tmp_path / "lock.json")  # what kill -9 left behind is seen at once
    taken.acquire()
    taken.release()
    assert list(tmp_path.iterdir()) == []


def test_a_stopped_process_holds_its_lock_and_a_zombie_does_not(tmp_path: Path) -> None:
    process = hold(tmp_path / "lock.json")
    assert said(process) == "held"
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(UserError, match="already"):
        fast(tmp_path / "lock.json").acquire()
    process.kill()
    until = time.monotonic() + 10
    while time.monotonic() < until:  # nobody has waited for it: a zombie
        try:
            fast(tmp_path / "lock.json").acquire()
            break
        except UserError:
            time.sleep(0.01)
    else:
        pytest.fail("a zombie holds the lock")
    process.wait()


def test_of_many_that_find_a_stale_lock_one_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    owner = dataclasses.asdict(module.myself()) | {"pid": 2**22 + 1, "started": "1"}
    path.write_text(json.dumps(owner))
    processes = [hold(path, 3.0) for _ in range(4)]
    answers = sorted(map(said, processes))
    for process in processes:
        process.wait()
    assert answers == ["held", "refused", "refused", "refused"]


def test_a_process_number_that_is_used_again_is_not_the_owner(tmp_path: Path) -> None:
    owner = dataclasses.asdict(module.myself()) | {"started": "1"}
    (tmp_path / "lock.json").write_text(json.dumps(owner))
    fast(tmp_path / "lock.json").acquire()


@pytest.mark.parametrize("jump", [-1e6, 0.0, 1e6])
def test_another_machine_is_judged_by_its_heartbeat(tmp_path: Path, jump: float) -> None:
    """Whatever its clock says: one that beats lives, one that does not is gone."""
    path = foreign(tmp_path / "lock.json")
    told: list[str] = []
    lock = Lock(path, "it: is held", told.append, heartbeat=0.05, stale=0.3)
    os.utime(path, (time.time() + jump,) * 2)
    began = time.monotonic()
    lock.acquire()
    assert time.monotonic() - began < 10
    assert "node9" in told[0]
    lock.release()

    foreign(path)
    beats = iter(range(1, 100))

    def beat(_: float) -> None:
        os.utime(path, (time.time() + jump + next(beats),) * 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.time, "sleep", beat)
        with pytest.raises(UserError, match="node9"):
            lock.acquire()


@pytest.mark.parametrize("content", [b"", b"\0" * 200, b"{}", b"[]"])
def test_a_damaged_lock_is_taken_after_a_while(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lock.json").write_bytes(content)
    fast(tmp_path / "lock.json").acquire()


def test_without_hard_links_and_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import fcntl

    def none(*_: object, **__: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "link", none)
    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(fcntl, "lockf", none)
    lock = fast(tmp_path / "lock.json")
    lock.acquire()
    with pytest.raises(UserError, match="already"):
        fast(tmp_path / "lock.json").acquire()
    lock.release()
    assert list(tmp_path.iterdir()) == []


def test_the_heart_beats_and_a_lost_lock_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    lock = fast(path)
    lock.acquire()
    first = path.stat().st_mtime_ns
    until = time.monotonic() + 10
    while path.stat().st_mtime_ns == first and time.monotonic() < until:
        time.sleep(0.01)
    assert path.stat().st_mtime_ns > first
    lock.check()
    os.replace(foreign(tmp_path / "theirs"), path)
    while not lock._lost.is_set() and time.monotonic() < until:
        time.sleep(0.01)
    with pytest.raises(UserError, match="taken over"):
        lock.check()
    lock.release()
    assert path.exists()  # it is theirs


def test_a_lock_that_is_dropped_is_released(tmp_path: Path) -> None:
    """By the garbage collector, and at the end of a process that forgot it."""
    lock = fast(tmp_path / "lock.json")
    lock.acquire()
    del lock
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    process = hold(tmp_path / "lock.json", 0.0)
    assert process.wait(timeout=20) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_the_users(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        fast(tmp_path / "none" / "lock.json").acquire()
