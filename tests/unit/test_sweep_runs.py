"""What a sweep reads of its runs and writes beside them, in a folder and at an address alike."""

from __future__ import annotations

import csv
import io
import json

import fsspec
import pytest

from data_pipeline.errors import UserError
from data_pipeline.remote.transfer import TransferError
from launch.sweep.runs import best_of, status_of
from launch.sweep.table import make_table
from launch.sweep.trainings import Training

VALIDATIONS = [
    {"split": "val", "step": 2, "loss": 3.0},
    {"split": "train", "step": 4, "loss": 9.0},
    {"split": "val", "step": 4, "loss": 2.0},
    {"split": "val", "step": 6, "loss": 2.5},
]


@pytest.fixture(params=["folder", "address"])
def runs_dir(request, tmp_path):
    """Where one run of two is done; its best step is 4, and its last record is cut short."""
    records = "\n".join(map(json.dumps, VALIDATIONS)) + '\n{"split": "va'
    files = {
        "a/status.json": json.dumps({"state": "done", "step": 6}),
        "a/metrics.jsonl": records,
        "a/checkpoints/best/meta.json": json.dumps({"step": 4}),
        "a/mirror.json": json.dumps({"best": "step-00000004"}),
    }
    if request.param == "folder":
        root = tmp_path
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
    else:
        root = f"memory://{tmp_path.name}"
        for name, text in files.items():
            with fsspec.open(f"{root}/{name}", "w") as file:
                file.write(text)
    return str(root)


def test_state_and_best_validation_are_read(runs_dir):
    assert status_of(runs_dir, "a") == {"state": "done", "step": 6}
    assert best_of(runs_dir, "a") == VALIDATIONS[2]
    assert status_of(runs_dir, "b") == best_of(runs_dir, "b") == {}


def test_the_table_lies_beside_the_runs(runs_dir, capsys):
    trainings = [Training(name, {"lr": 0.1}, []) for name in "ab"]
    make_table(trainings, "mine", runs_dir)
    with fsspec.open(f"{runs_dir}/mine.csv", "r") as file:
        rows = list(csv.DictReader(io.StringIO(file.read())))
    assert [(row["run"], row["state"], row["loss"]) for row in rows] == [
        ("a", "done", "2.0"),
        ("b", "not started", ""),
    ]
    assert "1 of 2 trainings are done" in capsys.readouterr().out


def test_a_store_that_does_not_answer_is_no_run_that_was_not_started(monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "x")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "x")
    with pytest.raises(UserError, match="nosuch"):
        status_of("nosuch://bucket/runs", "a")


def test_a_store_that_does_not_take_the_table_is_named_in_one_line(monkeypatch):
    monkeypatch.setattr("vae_dist.mirror.store.Store.write", _refused)
    with pytest.raises(UserError, match=r"^--runs-dir: memory://x/mine.csv: not found; Fix: "):
        make_table([Training("a", {"lr": 0.1}, [])], "mine", "memory://x")


def _refused(store, name, content):
    raise TransferError(f"{store.address}/{name}: not found")
