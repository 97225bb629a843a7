"""A moving average of the weights, early stopping, the plateau schedule: exact after a resume."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from launch.cli import main
from tests.data_folders import drawn, written
from tests.training_runs import COMMON, flags, metrics
from vae_dist.run.load import load_run
from vae_dist.train.ema import PREFIX, Average, split_average

QUIET = {**COMMON, "batch_size": 32, "checkpoint_every": 0, "lr": 0.01}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("averaged") / "data"
    written(out, drawn(shape=(1, 8, 8)))
    return out


def train(data: Path, runs: Path, name: str, **settings: object) -> Path:
    words = flags({**QUIET, **settings, "data": data, "runs_dir": runs, "name": name})
    assert main(["train", *words]) == 0
    return runs / name


def last(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / "last" / "model.safetensors")


def test_the_average_is_the_one_of_the_formula() -> None:
    module = torch.nn.Linear(3, 2)
    average = Average(module, 0.7)  # type: ignore[arg-type]
    wanted = [p.detach().clone() for p in module.parameters()]
    for n in range(20):
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(n)
        keep = min(0.7, (1 + n) / (10 + n))
        wanted = [
            keep * w + (1 - keep) * p.detach()
            for w, p in zip(wanted, module.parameters(), strict=True)
        ]
    for found, want in zip(average.averages, wanted, strict=True):
        torch.testing.assert_close(found, want)
    own = [p.detach().clone() for p in module.parameters()]
    with average.in_place():
        for parameter, want in zip(module.parameters(), average.averages, strict=True):
            torch.testing.assert_close(parameter.detach(), want, rtol=0, atol=0)
    for parameter, want in zip(module.parameters(), own, strict=True):
        torch.testing.assert_close(parameter.detach(), want, rtol=0, atol=0)


def test_a_resumed_average_has_the_same_bytes_and_is_what_is_used(
    data: Path, tmp_path: Path
) -> None:
    """Cut in mid-epoch; accumulation in two micro-batches; best and load_run take the average."""
    settings = {"ema": 0.9, "accumulate": 2, "schedule": "constant"}
    whole = train(data, tmp_path, "whole", **settings)
    train(data, tmp_path, "cut", **settings, max_steps=4)
    cut = train(data, tmp_path, "cut", **settings)
    model = (whole / "checkpoints" / "last" / "model.safetensors").read_bytes()
    assert model == (cut / "checkpoints" / "last" / "model.safetensors").read_bytes()
    weights, average = split_average(last(whole))
    assert average is not None
    assert any((weights[name] != average[name]).any() for name in weights)
    run = load_run(whole, which="last")
    assert run.averaged
    assert "averaged" in str(run)
    for name, tensor in run.objective.state_dict().items():
        torch.testing.assert_close(tensor, average[name], rtol=0, atol=0)
    plain = train(data, tmp_path, "plain", schedule="constant")
    for name, tensor in last(plain).items():  # training itself does not see the average
        torch.testing.assert_close(weights[name], tensor, rtol=1e-4, atol=1e-6)
    assert metrics(plain, "val")[-1]["loss"] != metrics(whole, "val")[-1]["loss"]


def test_a_step_that_is_skipped_does_not_move_the_average(data: Path, tmp_path: Path) -> None:
    run = train(
        data, tmp_path, "skipped", ema=0.9, max_bad_steps=99, lr=1e30, epochs=3, schedule="constant"
    )
    records = metrics(run, "train")
    assert records[-1]["skipped_steps"] > 0
    for name, tensor in last(run).items():
        if name.startswith(PREFIX):
            assert tensor.isfinite().all(), name


def test_a_resume_with_and_without_an_average_says_so(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(data, tmp_path, "run", epochs=1)
    capsys.readouterr()
    train(data, tmp_path, "run", epochs=2, ema=0.9)
    assert "moving average begins here" in capsys.readouterr().out
    train(data, tmp_path, "run", epochs=3)
    assert "without its moving average" in capsys.readouterr().out


def test_patience_ends_a_training_that_no_longer_improves(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With next to no rate the first validation stays the best one."""
    settings = {"lr": 1e-30, "epochs": 9, "schedule": "constant"}
    run = train(data, tmp_path, "run", **settings, patience=2)
    assert "2 validations without a better loss" in capsys.readouterr().out
    assert len(metrics(run, "val")) == 3
    assert json.loads((run / "status.json").read_text())["state"] == "done"
    train(data, tmp_path, "run", **settings, patience=2)
    assert len(metrics(run, "val")) == 3
    train(data, tmp_path, "run", **settings, patience=4)
    assert len(metrics(run, "val")) == 5


def test_the_plateau_schedule_lowers_the_rate_and_resumes_where_it_was(
    data: Path, tmp_path: Path
) -> None:
    settings = {"lr": 1e-30, "schedule": "plateau", "plateau_patience": 2, "lr_gamma": 0.5}
    settings |= {"lr_min": 0.2}
    whole = train(data, tmp_path, "whole", **settings, epochs=9)
    steps = {record["epoch"]: record["lr"] / 1e-30 for record in metrics(whole, "train")}
    rates = [rate for _, rate in sorted(steps.items())]
    assert rates[0] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0.2)
    assert sorted({round(rate, 3) for rate in rates}) == [0.2, 0.25, 0.5, 1.0]
    by_epoch = {int(epoch - 1e-9): rate for epoch, rate in steps.items()}
    assert [round(by_epoch[epoch], 3) for epoch in range(9)] == [
        1,
        1,
        1,
        0.5,
        0.5,
        0.25,
        0.25,
        0.2,
        0.2,
    ]
    train(data, tmp_path, "cut", **settings, epochs=4)
    cut = train(data, tmp_path, "cut", **settings, epochs=9)
    assert [r["lr"] for r in metrics(cut, "train")] == [r["lr"] for r in metrics(whole, "train")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--ema", "1"], "--ema 1.0"),
        (["--patience", "-1"], "--patience -1"),
        (["--plateau-patience", "0"], "--plateau-patience 0"),
        (["--init-strict", "False"], "--init-strict False"),
        (["--init-from", "a", "--resume", "b"], "--init-from a with --resume b"),
    ],
)
def test_wrong_settings_are_one_line(
    words: list[str], message: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "--data", str(data), *words]) == 2
    assert message in capsys.readouterr().err


def test_encode_and_evaluate_say_that_they_use_the_average(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(data, tmp_path, "run", epochs=1, ema=0.9)
    capsys.readouterr()
    out = ["--out", str(tmp_path / "z.npz")]
    assert main(["encode", "--run", str(run), "--images", str(data), *out]) == 0
    assert "run, step 3, averaged weights; on 1 process" in capsys.readouterr().err
    words = ["--runs", str(run), "--data", str(data), "--methods", "vae", "--backend", "cpu"]
    assert main(["evaluate", *words, "--out", str(tmp_path / "eval")]) == 0
    said = capsys.readouterr()
    assert "step 3, averaged weights are evaluated" in said.out + said.err
