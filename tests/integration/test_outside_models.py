"""Models of others: named by module and class, or by an installed package."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import UserError
from evaluation.settings import EvaluateConfig
from launch.cli import main
from tests.data_folders import drawn, written
from tests.run_folders import write_run
from tests.training_runs import COMMON, ROOT, flags
from vae_dist.models import ModelConfig
from vae_dist.run.load import load_run

PAGE = (ROOT / "docs" / "extending.md").read_text()
LINEAR = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[0]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder of a user who saved the page's model there."""
    (tmp_path / "linear.py").write_text(LINEAR)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "linear", raising=False)
    yield tmp_path
    sys.modules.pop("linear", None)


def install(folder: Path, group: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip leaves behind of a package with one entry point."""
    info = folder / "others-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{line}\n")
    monkeypatch.syspath_prepend(str(folder))


def test_a_model_of_the_current_folder_is_trained_resumed_and_loaded(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(here / "d", drawn())
    settings = {**COMMON, "model_type": "linear:Linear", "data": "d", "name": "mine", "epochs": 1}
    assert main(["train", *flags({**settings, "batch_size": 40})]) == 0
    assert json.loads(Path("runs/mine/config.json").read_text())["model"]["model_type"] == (
        "linear:Linear"
    )
    capsys.readouterr()
    resume = ["train", "--resume", "runs/mine", "--epochs", "2"]
    assert main(resume) == 2
    assert "--model-type linear:Linear" in capsys.readouterr().err
    assert main([*resume, "--model-type", "linear:Linear"]) == 0

    sample = ["sample", "--run", "runs/mine", "--out", "out", "--device", "cpu"]
    assert main(sample) == 2
    assert "--allow-code True" in capsys.readouterr().err
    assert main([*sample, "--allow-code", "True"]) == 0


def test_a_run_that_somebody_sent_runs_no_code(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither from Python nor by a command, though the module lies in the current folder."""
    data = written(here / "d", drawn())
    run = write_run(here / "sent", data)
    (here / "evil.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    config = json.loads((run / "config.json").read_text())
    config["model"]["model_type"] = "evil:Model"
    (run / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"the code of evil:Model.*--allow-code True"):
        load_run(run, "cpu")
    np.save("x.npy", np.zeros((1, 1, 5, 4), np.uint8))
    export = here / "exported"
    export.mkdir()
    shutil.copy(run / "config.json", export)
    shutil.copy(run / "checkpoints" / "best" / "model.safetensors", export)
    with pytest.raises(UserError, match="the code of evil:Model"):
        load_run(export, "cpu")
    for command in (
        ["sample", "--run", "sent", "--out", "out"],
        ["encode", "--run", "sent", "--images", "x.npy", "--out", "z.npz"],
        ["export", "--run", "sent", "--out", "e"],
        ["train", "--resume", "sent", "--data", "d"],
    ):
        assert main(command) == 2, command
        assert "the code of evil:Model" in capsys.readouterr().err or command[0] == "train"
    assert not EvaluateConfig().allow_code
    assert main(["evaluate", "--runs", "sent", "--data", "d", "--methods", "vae"]) != 0
    assert not Path("ran").exists()
    assert "evil" not in sys.modules


def test_an_installed_model_has_a_name_and_needs_no_permission(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = re.findall(r"```toml\n.*?vae_dist.models.*?\n(.*?)\n```", PAGE, re.DOTALL)[0]
    install(here, "vae_dist.models", line.replace('"', ""), monkeypatch)
    run = write_run(here / "r", written(here / "d", drawn()), model_type="my_linear")
    assert type(load_run(run, "cpu").objective.model).__name__ == "Linear"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.part:Model", "there is no module 'missing'"),
        ("linear:Missing", r"linear \(.*linear.py\) has no Missing"),
        ("linear:math", "is no class derived from"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(here: Path, name: str, message: str) -> None:
    data = written(here / "d", drawn())
    with pytest.raises(UserError, match=f"--model-type {name}.*{message}"):
        write_run(here / "r", data, model_type=name)


def test_a_name_that_is_none_is_refused() -> None:
    with pytest.raises(UserError, match=r"expected one of auto, fc, .*, or MODULE:CLASS"):
        ModelConfig(model_type="evil:os.system('true')")
