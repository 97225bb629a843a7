"""docs/extending.md, followed word for word."""

import re
import sys
from pathlib import Path

import pytest
import torch

from launch.cli import main
from tests.data_folders import drawn, written
from tests.training_runs import COMMON, ROOT, flags, metrics
from vae_dist.models import MODELS
from vae_dist.run.load import load_run


def test_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "extending.md").read_text()
    file, line = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[:2]
    name, where = re.findall(r'"(.+?)"', line)
    (tmp_path / "added").mkdir()
    (tmp_path / "added" / "linear.py").write_text(file)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setitem(MODELS, name, where.replace("vae_dist.models", "added"))
    written(tmp_path / "data", drawn(shape=(3, 8, 9)))
    settings = {
        **COMMON,
        "model_type": name,
        "conditional": True,
        "batch_size": 10,
        "epochs": 3,
        "lr": 0.01,
        "data": tmp_path / "data",
        "runs_dir": tmp_path,
        "name": "added_model",
    }
    assert main(["train", *flags(settings)]) == 0
    losses = [record["loss"] for record in metrics(tmp_path / "added_model", "val")]
    assert losses[-1] < losses[0]
    run = load_run(tmp_path / "added_model")
    assert run.objective.model.encode(torch.rand(2, 3, 8, 9))[0].shape == (2, 3)
