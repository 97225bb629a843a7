"""``vae-dist sweep``: every combination once, resumable, one table."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from optuna.distributions import FloatDistribution, IntDistribution

from launch.cli import main
from launch.sweep import carry_out as sweep
from launch.sweep.search import Search
from launch.sweep.trainings import read_grid
from tests.data_folders import drawn, written
from tests.s3 import s3_server
from tests.training_runs import environment
from tests.warm import run_warm

FIXED = (
    'model_type = "fc"\nepochs = 1\nbatch_size = 40\ntensorboard = false\ntelemetry_interval = 0'
)


@pytest.fixture
def grid(tmp_path: Path) -> Path:
    written(tmp_path / "data", drawn(shape=(1, 8, 8)))
    path = tmp_path / "small.toml"
    path.write_text(
        f'[fixed]\ndata = "{tmp_path}/data"\n{FIXED}\n[grid]\nlatent_size = [2, 3]\nlr = [1e-3]\n'
    )
    return path


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trainings are forked from a process that has imported torch."""
    start = [sys.executable, "-m", "launch.cli"]

    def run(words: list[str], out: object) -> int:
        assert words[:3] == start
        return run_warm(words[3:], environment()).returncode

    monkeypatch.setattr(sweep, "_run", run)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.usefixtures("warm")
def test_every_combination_is_trained_once_and_listed(
    grid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two tasks share the sweep; the table of the second one has both trainings."""
    words = ["sweep", "--grid", str(grid), "--runs-dir", str(tmp_path / "runs")]
    assert main([*words, "--part", "0/2"]) == 0
    table = tmp_path / "runs" / "small.csv"
    assert [row["state"] for row in rows(table)] == ["done", "not started"]
    assert main([*words, "--part", "1/2"]) == 0
    found = rows(table)
    assert [row["run"] for row in found] == [f"small-latent_size={z}-lr=0.001" for z in (2, 3)]
    for row in found:
        assert row["state"] == "done"
        lines = (tmp_path / "runs" / row["run"] / "metrics.jsonl").read_text().splitlines()
        assert float(row["loss"]) == json.loads(lines[-1])["loss"]
    capsys.readouterr()
    assert main(words) == 0
    assert capsys.readouterr().out.count("is done already") == 2
    assert main([*words, "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("small-latent_size=2-lr=0.001 --data ")
    assert lines[0].endswith("--latent-size 2 --lr 0.001")


@pytest.mark.usefixtures("warm")
def test_a_stopped_sweep_saves_and_resumes(grid: Path, tmp_path: Path) -> None:
    grid.write_text(grid.read_text().replace("epochs = 1", "epochs = 100000"))
    command = [sys.executable, "-m", "launch.cli", "sweep", "--grid", str(grid)]
    command += ["--runs-dir", str(tmp_path / "runs")]
    status = tmp_path / "runs" / "small-latent_size=2-lr=0.001" / "status.json"
    with subprocess.Popen(command, env=environment()) as process:
        for _ in range(600):
            if status.is_file() and json.loads(status.read_text())["state"] == "running":
                break
            time.sleep(0.1)
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(60) == 75
    kept = json.loads(status.read_text())
    assert kept["state"] == "stopped"
    grid.write_text(grid.read_text().replace("epochs = 100000", "epochs = 1"))
    # The same runs go on: what was trained already is more than one epoch.
    assert main(["sweep", "--grid", str(grid), "--runs-dir", str(tmp_path / "runs")]) == 0
    assert json.loads(status.read_text())["step"] >= kept["step"]
    assert [row["state"] for row in rows(tmp_path / "runs" / "small.csv")] == ["done", "done"]


@pytest.mark.usefixtures("warm")
def test_a_training_that_fails_does_not_stop_the_others(grid: Path, tmp_path: Path) -> None:
    grid.write_text(grid.read_text().replace("lr = [1e-3]", "lr = [1e30, 1e-3]"))
    text = grid.read_text().replace("latent_size = [2, 3]", "latent_size = [2]")
    grid.write_text(text.replace("epochs = 1", "epochs = 9"))
    assert main(["sweep", "--grid", str(grid), "--runs-dir", str(tmp_path / "runs")]) == 1
    assert [row["state"] for row in rows(tmp_path / "runs" / "small.csv")] == ["failed", "done"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid]", "needs a table [grid]"),
        ("[grid]\nlr = 1e-3", "lr in [grid] must be a list"),
        ("[grids]\nlr = [1e-3]", "grids is neither"),
        ("[grid]\nname = ['a']", "name is set by the sweep itself"),
        ("[grid]\nlr = [1]\n[fixed]\nlr = 1", "lr stands in [grid] and in [fixed]"),
        ("[grid]\nlr = [1e-3, -1.0]", "--lr -1.0: must be above 0"),
        ("[grid]\nrate = [1e-3]", "x-rate=0.001"),
        ("[grid]\nlr = [", "not a TOML file"),
    ],
)
def test_a_wrong_grid_is_refused_before_the_first_training(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.toml"
    path.write_text(text)
    assert main(["sweep", "--grid", str(path), "--runs-dir", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_names_are_fit_for_folders(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_text('[grid]\ndata = ["a/b", "s3://c"]\n')
    assert [t.name for t in read_grid(path, "x")] == ["x-data=a_b", "x-data=s3___c"]


SEARCH = "[search]\nlatent_size = {low = 2, high = 4}\nlr = {low = 1e-4, high = 1e-2, log = true}\n"


def test_optuna_chooses_and_two_tasks_share_what_was_tried(grid: Path, tmp_path: Path) -> None:
    """A second task goes on with the run that the first left, and adds the third."""
    pytest.importorskip("optuna")
    grid.write_text(grid.read_text().split("[grid]")[0] + SEARCH)
    words = ["sweep", "--grid", str(grid), "--runs-dir", str(tmp_path / "runs")]
    assert main([*words, "--trials", "1"]) == 0
    study = Search({"latent_size": [2]}, tmp_path / "runs", "small", "").study
    study.ask({"latent_size": IntDistribution(2, 4), "lr": FloatDistribution(1e-4, 1e-2, log=True)})
    assert main([*words, "--trials", "2"]) == 0
    found = rows(tmp_path / "runs" / "small.csv")
    assert [row["run"] for row in found] == ["small-000", "small-001"]
    for row, trial in zip(found, study.get_trials(), strict=True):
        assert row["state"] == "done"
        assert float(row["loss"]) == trial.value
        assert int(row["latent_size"]) == trial.params["latent_size"]
        assert 1e-4 <= float(row["lr"]) <= 1e-2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[search]\nlr = 1", "lr in [search] must be a list, or"),
        ("[search]\nlr = {low = 2, high = 1}", "lr in [search] must be a list, or"),
        ("[search]\nlr = [1]\n[grid]\nlr = [1]", "give one table"),
        ("[search]\nresume = ['a']", "resume is set by the sweep itself"),
    ],
)
def test_a_wrong_search_is_refused(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    path = tmp_path / "x.toml"
    path.write_text(text)
    assert main(["sweep", "--grid", str(path), "--runs-dir", str(tmp_path / "runs")]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("warm")
def test_parts_of_a_sweep_meet_in_a_store(
    grid: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two machines without a common folder make one table; what needs a folder is refused at once,
    and a bucket that is not there is one line."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = ["sweep", "--grid", str(grid), "--name", "s", "--runs-dir"]
    with s3_server():
        import fsspec

        fsspec.filesystem("s3", skip_instance_cache=True).mkdir("runs")
        for task in "01":
            assert main([*words, "s3://runs/all", "--part", f"{task}/2"]) == 0
            shutil.rmtree(tmp_path / "cache")
        with fsspec.open("s3://runs/all/s.csv", "r") as file:
            assert [row["state"] for row in csv.DictReader(file)] == ["done", "done"]
        capsys.readouterr()
        assert main([*words, "s3://nowhere/all", "--table", "True"]) == 2
        assert _last_line(capsys).startswith(
            "vae-dist: error: --runs-dir: s3://nowhere/all/s.csv: "
        )
    grid.write_text(f'[fixed]\ndata = "{tmp_path}/data"\n[search]\nlatent_size = [2, 3]\n')
    assert main([*words, "s3://runs/all"]) == 2
    assert "journal in a folder that its tasks share; Fix: give a path" in _last_line(capsys)
    study = ["ablate", "--study", "article2018", "--data", str(tmp_path / "data")]
    assert main([*study, "--runs-dir", "s3://runs/all"]) == 2
    assert "is an address" in _last_line(capsys)


def _last_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("vae-dist: error: --runs-dir")
    return lines[-1]
