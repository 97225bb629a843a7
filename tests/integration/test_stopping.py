"""Kills, signals, full disks and NaN: the run stops well and goes on where it was."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest

from tests.data_folders import digits, drawn, written
from tests.training_runs import COMMON, TRAIN, environment, flags, metrics
from tests.warm import WarmProcess, run_warm

SETTINGS = {**COMMON, "epochs": 3, "batch_size": 50, "checkpoint_every": 5, "keep_last": 99}
Process = TypeVar("Process", WarmProcess, subprocess.Popen[str])
FIGURES = ("split", "step", "loss", "recon", "kl", "lr", "ssim", "elbo", "grad_norm")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data, and a run ``whole`` that nothing disturbed."""
    folder = tmp_path_factory.mktemp("stopping")
    written(folder / "data", digits())
    assert train(folder, name="whole").returncode == 0
    return folder


def words(place: Path, **more: object) -> list[str]:
    return flags({**SETTINGS, "data": place / "data", "runs_dir": place, **more})


def train(place: Path, **more: object) -> subprocess.CompletedProcess[str]:
    return run_warm(["train", *words(place, **more)], environment())


def cold(words: list[str], launcher: tuple[str, ...] = (sys.executable,)) -> subprocess.Popen[str]:
    """A training by the user's own command line, which imports everything first."""
    return subprocess.Popen(
        [*launcher, str(TRAIN), *words],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment(),
    )  # fmt: skip


def started(place: Path, name: str, lines: int) -> WarmProcess:
    """A training that has written this many records."""
    return after(
        WarmProcess(["train", *words(place, name=name)], environment()), place / name, lines
    )


def after(process: Process, run: Path, lines: int) -> Process:
    """The process, once its run has this many records or it has ended."""
    until = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < until:
        path = run / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) >= lines:
            return process
        time.sleep(0.002)
    return process


def status(run: Path) -> dict[str, object]:
    return json.loads((run / "status.json").read_text())


def weights(run: Path) -> bytes:
    return (run / "checkpoints" / "last" / "model.safetensors").read_bytes()


def assert_same_as_undisturbed(place: Path, name: str, split: str | None = None) -> None:
    assert status(place / name)["state"] == "done"
    assert weights(place / name) == weights(place / "whole")  # bit for bit
    ours, theirs = (
        [{k: r.get(k) for k in FIGURES} for r in metrics(place / n, split)] for n in (name, "whole")
    )
    assert ours == theirs


def test_killed_in_mid_epoch_and_resumed(place: Path) -> None:
    process = started(place, "killed", 33)  # in epoch 2
    process.kill()
    process.wait()
    step = status(place / "killed")["step"]
    assert status(place / "killed")["state"] == "running"
    resumed = train(place, name="killed")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resuming" in resumed.stdout
    assert isinstance(step, int)
    assert_same_as_undisturbed(place, "killed")


@pytest.mark.parametrize(
    ("flag", "value"), [("seed", 1), ("loader", "stream"), ("batch_size", 49), ("optimizer", "sgd")]
)
def test_resume_in_mid_epoch_refuses_another_order(place: Path, flag: str, value: object) -> None:
    checkpoint = place / "whole" / "checkpoints" / "step-00000005"
    done = train(place, name=f"other_{flag}", resume=checkpoint, **{flag: value})
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert "resume with the same" in done.stderr


def test_a_schedule_over_another_number_of_steps_is_said(place: Path) -> None:
    planned = {"name": "plan", "schedule": "cosine", "kl_schedule": "warmup"}
    assert train(place, epochs=1, **planned).returncode == 0
    again = train(place, epochs=1, **planned)
    assert "warning" not in again.stdout
    longer = train(place, epochs=2, **planned)
    assert longer.returncode == 0
    told = "--schedule cosine and --kl-schedule warmup now stretch over 48 steps instead of 24"
    assert told in longer.stdout.replace("\n", " ")


def test_resume_takes_a_new_rate(place: Path) -> None:
    checkpoint = place / "whole" / "checkpoints" / "step-00000005"
    assert train(place, name="rate", resume=checkpoint, lr=3e-4, max_steps=7).returncode == 0
    assert metrics(place / "rate", "train")[-1]["lr"] == pytest.approx(3e-4)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR2"])
def test_stopped_by_a_signal_and_resumed(place: Path, name: str) -> None:
    process = started(place, name, 29)
    sent = time.monotonic()
    process.send_signal(signal.Signals[name])
    output = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert time.monotonic() - sent < 30
    found = status(place / name)
    assert (found["state"], found["exit_code"], found["reason"]) == ("stopped", 75, name)
    last = (place / name / "checkpoints" / "last").resolve().name
    assert last == f"step-{found['step']:08d}"
    assert train(place, name=name).returncode == 0
    assert_same_as_undisturbed(place, name)


def test_stopped_during_start_up(place: Path) -> None:
    process = cold(words(place, name="early"))
    time.sleep(1.0)  # importing torch
    process.send_signal(signal.SIGUSR2)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert train(place, name="early").returncode == 0
    assert_same_as_undisturbed(place, "early")


def test_time_limit(place: Path) -> None:
    done = train(place, name="limited", time_limit=0.001)
    assert done.returncode == 75
    assert status(place / "limited")["reason"] == "time limit"


def test_max_steps_ends_the_run(place: Path) -> None:
    """In mid-epoch, with a validation; a longer run goes on from there as if it had not ended."""
    assert train(place, name="short", max_steps=7).returncode == 0
    found = status(place / "short")
    assert (found["state"], found["step"]) == ("done", 7)
    (validated,) = metrics(place / "short", "val")
    assert validated["step"] == 7
    assert validated["epoch"] % 1 > 0
    assert train(place, name="short").returncode == 0
    assert weights(place / "short") == weights(place / "whole")


def test_all_ranks_stop_at_the_same_step(place: Path) -> None:
    """A signal that only one rank gets stops both, and a resume on one process goes on."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    process = cold(words(place, name="pair"), (*launcher, "--nproc-per-node", "2"))
    after(process, place / "pair", 29)
    children = subprocess.run(
        ["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(children) == 2
    os.kill(int(children[-1]), signal.SIGUSR2)
    output, _ = process.communicate(timeout=90)
    assert status(place / "pair")["state"] == "stopped", output
    assert status(place / "pair")["world_size"] == 2
    assert train(place, name="pair").returncode == 0
    whole = {r["step"]: r["loss"] for r in metrics(place / "whole", "train")}
    for record in metrics(place / "pair", "train"):
        assert record["loss"] == pytest.approx(whole[record["step"]], rel=1e-4)


def test_a_taken_name_is_refused(place: Path) -> None:
    done = train(place, name="whole", resume="")
    assert done.returncode == 2
    assert "--resume auto" in done.stderr
    assert "--overwrite True" in done.stderr
    assert done.stderr.count("\n") == 1
    assert status(place / "whole")["state"] == "done"


def test_full_disk_keeps_the_former_checkpoint(place: Path) -> None:
    """A file-size limit makes the write fail as a full disk does, in the middle of a file."""
    run = place / "full"
    assert train(place, name="full", max_steps=5).returncode == 0
    before = weights(run)
    size = (run / "checkpoints" / "last" / "model.safetensors").stat().st_size
    limited = ["bash", "-c", f'trap "" XFSZ; ulimit -f {size // 2048}; exec "$@"', "-"]
    done = subprocess.run(
        [*limited, sys.executable, str(TRAIN), *words(place, name="full")],
        capture_output=True, text=True, env=environment(), timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert "the former ones stand" in done.stderr
    assert "Traceback" not in done.stderr
    assert weights(run) == before
    assert not list((run / "checkpoints").glob(".writing-*"))
    assert status(run)["state"] == "failed"
    assert train(place, name="full").returncode == 0
    assert_same_as_undisturbed(place, "full", "train")  # step 5 was validated, too


def test_nan_names_step_and_images(place: Path, tmp_path: Path) -> None:
    """A learning rate that explodes: the run stops, says where, and keeps the good checkpoint."""
    source = drawn(train=200, shape=(1, 6, 6))
    written(tmp_path / "data", source)
    done = train(tmp_path, name="nan", lr=1e30, batch_size=40, epochs=5, checkpoint_every=1)
    assert done.returncode == 1
    assert "is not finite" in done.stderr
    assert "--max-bad-steps" in done.stderr
    bad = json.loads((tmp_path / "nan" / "bad-batch.json").read_text())
    assert len(bad["index"]) == 40
    assert all(0 <= i < 200 for i in bad["index"])
    assert status(tmp_path / "nan")["state"] == "failed"
    kept = (tmp_path / "nan" / "checkpoints" / "last").resolve()
    from safetensors.torch import load_file

    assert all(t.isfinite().all() for t in load_file(kept / "model.safetensors").values())


def test_bad_steps_are_skipped_and_counted(tmp_path: Path) -> None:
    written(tmp_path / "data", drawn(train=200, shape=(1, 6, 6)))
    done = train(tmp_path, name="skip", lr=1e30, batch_size=40, epochs=1, max_bad_steps=99)
    assert done.returncode in (0, 1)
    records = metrics(tmp_path / "skip", "train")
    assert records[-1]["skipped_steps"] >= 1
    assert np.isfinite(records[0]["loss"])
