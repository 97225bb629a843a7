"""Runs in an object store, against a real S3 server that fails, and real trainings."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from launch.cli import main
from tests.data_folders import digits, drawn, written
from tests.integration.store_server import StoreServer, store_server
from tests.run_folders import write_run
from tests.s3 import s3_at
from tests.training_runs import TRAIN, environment, flags, metrics, torchrun
from vae_dist.mirror.config import MirrorConfig
from vae_dist.mirror.fetch import local_copy
from vae_dist.mirror.mirror import Mirror
from vae_dist.mirror.store import ONCE, Store
from vae_dist.run.checkpoint import CheckpointConfig, fault_of, save_checkpoint
from vae_dist.run.folder import RunFolder
from vae_dist.run.which_checkpoint import own_checkpoint

SETTINGS = {
    "model_type": "fc", "latent_size": 3, "epochs": 4, "batch_size": 50, "log_every": 2,
    "checkpoint_every": 5, "keep_last": 2, "tensorboard_images": False, "telemetry_interval": 0.2,
}  # fmt: skip
FIGURES = ("split", "step", "epoch", "loss", "recon", "kl", "lr", "ssim", "elbo", "grad_norm")


@pytest.fixture(scope="module")
def server() -> Iterator[StoreServer]:
    pytest.importorskip("moto.server")
    with store_server() as state, s3_at(state.url):
        yield state


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine that has seen no run yet: its cache folder."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_killed_training_goes_on_from_the_store_bit_for_bit(
    server: StoreServer, fresh: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGKILL between two parts of a checkpoint's copy, in mid-epoch; the machine's folders are
    deleted; the resume fetches the checkpoint before, through errors, and ends with the weights,
    records and TensorBoard of the undisturbed run."""
    data = str(written(tmp_path / "data", digits()).path)
    # Slow steps: the training must not have ended when its second copy begins.
    slow = {**SETTINGS, "epochs": 6, "importance_samples": 40}
    whole = {**slow, "data": data, "runs_dir": tmp_path / "runs", "name": "whole"}
    assert main(["train", *flags(whole)]) == 0
    there = {**slow, "data": data, "runs_dir": "s3://runs/all", "name": "killed"}
    there |= {"mirror_every": 1, "resume": "auto"}
    server.faults = [
        ("PUT", "lock.json", 500),
        ("PUT", "/model", 500),
        ("PUT", "step-00000(0[1-9]|1.)5/trainer", "hold"),  # no end of an epoch of 24 steps
    ]
    words = [sys.executable, str(TRAIN), *flags(there)]
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL)
    assert server.held.wait(120), server.requests
    half = server.requests[-1][1].split("/")[-2]
    process.kill()
    process.wait()
    shutil.rmtree(fresh)
    names = {
        name.split("/")[1] for name in Store("s3://runs/all/killed").names() if "/step" in name
    }
    assert half in names
    before = json.loads(Store("s3://runs/all/killed").read("mirror.json") or b"")["last"]
    assert before != half
    server.faults = [("GET", "model.safetensors", "cut"), ("GET", "metrics.jsonl", 500)]
    capfd.readouterr()
    assert main(["train", *words[2:]]) == 0
    said = capfd.readouterr().out
    assert f"{before} at step" in said, said
    place = fresh / "vae-dist" / "runs" / "s3" / "runs" / "all" / "killed"
    copy = local_copy("s3://runs/all/killed")
    for run in (place, copy):
        last = run / "checkpoints" / "last" / "model.safetensors"
        assert last.read_bytes() == _weights(tmp_path / "runs" / "whole")
        ours, theirs = (
            [{k: m.get(k) for k in FIGURES} for m in metrics(r)]
            for r in (run, tmp_path / "runs" / "whole")
        )
        assert ours == theirs
        assert json.loads((run / "status.json").read_text())["state"] == "done"
    for name in ("config.json", "environment.json", "telemetry.jsonl"):
        assert (copy / name).read_bytes() == (place / name).read_bytes()
    assert _events(copy) == _events(tmp_path / "runs" / "whole")
    kept = {name.split("/")[1] for name in Store("s3://runs/all/killed").names() if "/step" in name}
    assert kept == {p.name for p in (place / "checkpoints").glob("step-*")}


def test_one_process_goes_on_with_a_run_of_two_in_the_store(
    server: StoreServer, fresh: Path, tmp_path: Path
) -> None:
    """Stopped in mid-epoch, their machine gone: the same records as a training of one process."""
    data = written(tmp_path / "data", digits())
    settings = {**SETTINGS, "data": data.path, "tensorboard": False, "telemetry_interval": 0}
    whole = {**settings, "runs_dir": tmp_path / "runs", "name": "whole"}
    assert main(["train", *flags(whole)]) == 0
    there = {**settings, "runs_dir": "s3://runs/all", "name": "of-two", "resume": "auto"}
    done = torchrun(2, TRAIN, *flags({**there, "max_steps": 30}))
    assert done.returncode == 0, done.stdout + done.stderr
    shutil.rmtree(fresh)
    assert main(["train", *flags(there)]) == 0
    place = fresh / "vae-dist" / "runs" / "s3" / "runs" / "all" / "of-two"
    ours, theirs = (
        [
            [m[k] for k in ("step", "loss", "recon", "kl")]
            for m in metrics(run)
            if m["split"] == "train"
        ]
        for run in (place, tmp_path / "runs" / "whole")
    )
    assert len(ours) == len(theirs) > 40
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def _weights(run: Path) -> bytes:
    return (run / "checkpoints" / "last" / "model.safetensors").read_bytes()


def _events(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every training scalar of TensorBoard that does not depend on the clock."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    found.Reload()
    tags = [t for t in found.Tags()["scalars"] if t.split("/")[0] in FIGURES]
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in sorted(tags)}


def _copier(address: str, place: Path, said: list[str], **config: float) -> RunFolder:
    mirror = Mirror(address, place, MirrorConfig(**config), CheckpointConfig(), said.append)
    folder = RunFolder(place, mirror=mirror)
    folder.take(resume="", overwrite=False)
    folder.begin(0, 0, own=False)
    return folder


@pytest.mark.parametrize("kind", ["each", "gone"])
def test_copying_outlasts_the_faults_of_a_store(
    kind: str, server: StoreServer, fresh: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    folder = _copier(f"s3://runs/faults/{kind}", tmp_path / "run", said)
    if kind == "gone":
        server.gone = True
    else:
        server.faults = [("PUT", "model", 500), ("PUT", "trainer", "cut"), ("PUT", "meta", "slow")]
    save_checkpoint(folder.checkpoints, {}, {}, {"step": 3})
    folder.committed()
    if kind == "gone":
        until = time.monotonic() + 60
        while not said and time.monotonic() < until:
            time.sleep(0.05)
        server.gone = False
        assert "the training goes on" in said[0]
    while not folder.finish(1.0):
        pass
    assert folder.release() == "", said
    server.faults = []
    checkpoint, _ = own_checkpoint(local_copy(f"s3://runs/faults/{kind}") / "checkpoints")
    assert checkpoint is not None
    assert fault_of(checkpoint) == ""


def test_a_store_that_stays_away_is_told_in_the_end(
    server: StoreServer, fresh: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    folder = _copier("s3://runs/faults/away", tmp_path / "run", said, mirror_wait=0.5)
    server.gone = True
    try:
        save_checkpoint(folder.checkpoints, {}, {}, {"step": 3})
        folder.committed()
        while not folder.finish(0.5):
            pass
        missing = folder.release()
    finally:
        server.gone = False
    assert "checkpoint step-00000003 not copied there" in missing
    assert sum(line.startswith("warning") for line in said) == 1


def test_one_of_two_trainings_gets_the_lock(server: StoreServer, tmp_path: Path) -> None:
    """S3's conditional put: an object that is there is not written again."""
    store = Store("s3://runs/locks/a", ONCE)
    assert store.create("lock.json", b"1")
    assert not store.create("lock.json", b"2")
    assert store.read("lock.json") == b"1"


def test_a_wrong_bucket_is_named_before_the_training(
    server: StoreServer, fresh: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """And the secrets of an address are in no message and in no file."""
    data = written(tmp_path / "data", drawn(shape=(1, 8, 8)))
    words = {**SETTINGS, "data": data.path, "runs_dir": "s3://KEY:SECRET@nowhere/x?sig=SECRET"}
    assert main(["train", *flags(words)]) == 2
    said = capfd.readouterr()
    assert said.err.strip().splitlines()[-1].startswith("vae-dist: error: --runs-dir: s3://***@")
    assert "SECRET" not in said.out + said.err
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and b"SECRET" in p.read_bytes()]


def test_commands_take_the_address_of_a_run(
    server: StoreServer, fresh: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """encode, decode, export, evaluate and --init-from; what is here is not fetched again."""
    data = written(tmp_path / "data", drawn(shape=(1, 8, 8)))
    run = write_run(tmp_path / "made", data)
    for path in run.rglob("*"):
        if path.is_file() and not path.parent.is_symlink():
            Store("s3://runs/all/made").put(path, path.relative_to(run).as_posix())
    there, latents = "s3://runs/all/made", str(tmp_path / "z.npz")
    cpu = ["--device", "cpu"]
    assert main(["encode", "--run", there, "--images", data.path, "--out", latents, *cpu]) == 0
    decoded = ["--latents", latents, "--out", str(tmp_path / "x.npz"), *cpu]
    assert main(["decode", "--run", f"{there}/checkpoints/step-00000001", *decoded]) == 0
    assert main(["export", "--run", there, "--out", str(tmp_path / "exported")]) == 0
    quick = ["--methods", "vae", "--backend", "cpu", "--repeats", "2", "--report", "False"]
    where = ["--data", data.path, "--out", str(tmp_path / "eval"), "--allow-other-data", "True"]
    assert main(["evaluate", "--runs", there, *where, *quick]) == 0
    settings = {**SETTINGS, "data": data.path, "runs_dir": tmp_path / "runs", "init_from": there}
    settings |= {"latent_size": 4, "max_steps": 1, "tensorboard": False, "telemetry_interval": 0}
    assert main(["train", *flags(settings)]) == 0
    assert f"starting from the weights of {there}" in capfd.readouterr().out


def test_a_stop_with_grace_leaves_the_last_checkpoint_in_the_store(
    server: StoreServer, fresh: Path, tmp_path: Path
) -> None:
    """SIGTERM: exit 75 after the checkpoint of that step is in the store, the status too."""
    data = written(tmp_path / "data", digits())
    settings = {**SETTINGS, "epochs": 9999, "checkpoint_every": 0, "data": data.path}
    settings |= {"runs_dir": "s3://runs/all", "name": "stopped", "mirror_every": 0.3}
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), *flags(settings)],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    until = time.monotonic() + 60
    while time.monotonic() < until and Store("s3://runs/all/stopped").read("metrics.jsonl") is None:
        time.sleep(0.2)
    os.kill(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said
    copy = local_copy("s3://runs/all/stopped")
    status = json.loads((copy / "status.json").read_text())
    checkpoint, _ = own_checkpoint(copy / "checkpoints")
    assert checkpoint is not None
    assert (status["state"], checkpoint.name) == ("stopped", f"step-{status['step']:08d}")
    assert "copied to s3://runs/all/stopped" in said
    assert main(["monitor", "s3://runs/all/stopped", "--once"]) == 0
