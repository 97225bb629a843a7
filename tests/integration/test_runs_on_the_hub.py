"""A run whose folder is a repository of the Hugging Face Hub, against a stand-in of the Hub."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data_folders import drawn, written
from tests.integration.hub_stand_in import client_of, hub
from tests.training_runs import flags

ADDRESS = "hf://user/repo/runs"
OBJECTS = """
import sys
from pathlib import Path
from vae_dist.mirror.store import ONCE, Store

store, other = Store("hf://user/repo/runs/x", ONCE), Path(sys.argv[1], "runs/x/lock.json")
assert store.names() == [] and store.read("lock.json") is None
assert store.create("lock.json", b"mine") and other.read_bytes() == b"mine"
other.write_bytes(b"of another machine")
assert store.read("lock.json") == b"of another machine"
assert not store.create("lock.json", b"mine")
other.unlink()
assert store.read("lock.json") is None and store.names() == []
store.remove(["lock.json"])
store.write("a/b", b"x")
store.move("a/b", "c/b")
assert store.names() == ["c/b"] and store.read("c/b") == b"x"
"""
TRAIN = """
import sys
from launch.cli import main
sys.exit(main(["train", *sys.argv[1:]]))
"""


def _run(script: str, hub_address: str, place: Path, *words: str) -> str:
    environment = os.environ | client_of(hub_address, place / "home")
    environment |= {"XDG_CACHE_HOME": str(place / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        env=environment, capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_another_machine_wrote_is_seen_at_once(tmp_path: Path) -> None:
    """The Hub's client keeps listings, and for a file that is gone it has an error of its own."""
    pytest.importorskip("huggingface_hub")
    with hub(tmp_path / "repository") as address:
        _run(OBJECTS, address, tmp_path, str(tmp_path / "repository"))


def test_a_training_goes_on_from_the_hub_on_another_machine(tmp_path: Path) -> None:
    """With the weights of the training that was not interrupted; what it did not keep is gone."""
    pytest.importorskip("huggingface_hub")
    settings = {
        "data": written(tmp_path / "data", drawn(shape=(1, 8, 8))).path, "name": "x",
        "model_type": "fc", "latent_size": 3, "batch_size": 20, "keep_last": 1, "resume": "auto",
        "tensorboard": False, "telemetry_interval": 0, "runs_dir": ADDRESS,
    }  # fmt: skip
    repository = tmp_path / "repository"
    with hub(repository) as address:
        _run(TRAIN, address, tmp_path / "one", *flags({**settings, "epochs": 1}))
        _run(TRAIN, address, tmp_path / "two", *flags({**settings, "epochs": 2}))
        whole = {**settings, "epochs": 2, "runs_dir": tmp_path / "runs"}
        _run(TRAIN, address, tmp_path, *flags(whole))
    run = repository / "runs" / "x"
    index = json.loads((run / "mirror.json").read_text())
    copied = run / "checkpoints" / index["last"] / "model.safetensors"
    undisturbed = tmp_path / "runs" / "x" / "checkpoints" / "last" / "model.safetensors"
    assert copied.read_bytes() == undisturbed.read_bytes()
    kept = {folder.name for folder in (run / "checkpoints").iterdir() if any(folder.iterdir())}
    assert kept == {index["last"], index["best"]}
    assert not (run / "lock.json").exists()
