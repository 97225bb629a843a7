"""What a training writes down is what it used: the KL weight, and what trackers are told."""

import dataclasses
import subprocess
import sys
from typing import ClassVar

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, on_main_process

from benchmarks.step_parts import take_apart
from benchmarks.train import Contender
from launch.config import parse
from tests.data_folders import digits, written
from tests.training_runs import environment, flags, metrics
from vae_dist.losses import balance, kl_weight_at
from vae_dist.train.settings import Settings
from vae_dist.train.signals import StopRequest
from vae_dist.train.trainer import Trainer

SMALL = {
    "model_type": "fc",
    "latent_size": 3,
    "epochs": 2,
    "batch_size": 512,
    "log_every": 1,
    "tensorboard_images": False,
    "telemetry_interval": 0,
    "no_cuda": True,
}


class Recorder(GeneralTracker):
    """A tracker of Accelerate's that keeps what it is told."""

    name = "recorder"
    requires_logging_directory = False
    made: ClassVar[list["Recorder"]] = []

    @on_main_process
    def __init__(self, project, **kwargs):
        super().__init__()
        self.project, self.config, self.logged = project, None, []
        self.made.append(self)

    @property
    def tracker(self):
        return self

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None, **kwargs):
        self.logged.append((step, values))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return written(tmp_path_factory.mktemp("data") / "d", digits())


def train(data, folder, **changed):
    owners = {f.name: f.default_factory for f in dataclasses.fields(Settings)}
    words = flags({**SMALL, "runs_dir": folder, "name": "r", **changed})
    settings = Settings(**dict(zip(owners, parse("t", [*owners.values()], words), strict=True)))
    trainer = Trainer(settings, data, StopRequest())
    assert trainer.train() == 0
    return trainer


def test_trackers_get_project_settings_and_steps_that_never_go_back(data, tmp_path, monkeypatch):
    """Also that the KL weight in the log is that of the step, of a schedule that rises from 0."""
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "recorder", Recorder)
    trainer = train(
        data, tmp_path, tracker="recorder", project="digits", kl_schedule="warmup",
        kl_warmup=0.9, kl_loss_weight=3,
    )  # fmt: skip
    tracker = Recorder.made[-1]
    assert tracker.project == "digits"
    assert tracker.config["run.name"] == "r"
    assert tracker.config["loss.kl_loss_weight"] == 3
    steps = [step for step, _ in tracker.logged]
    assert steps == sorted(steps)
    epochs = [values["epoch"] for _, values in tracker.logged if "eph_val_loss" in values]
    assert epochs == [1, 2]
    for tag, former in (("loss/train", "train_loss"), ("recon/val", "val_img_loss")):
        grouped = [(step, values[tag]) for step, values in tracker.logged if tag in values]
        assert grouped
        assert grouped == [(step, v[former]) for step, v in tracker.logged if former in v]
    total = trainer.state.total_steps
    betas = [r["beta"] for r in metrics(tmp_path / "r", "train")]
    expected = [kl_weight_at(trainer.settings.loss, step, total) for step in range(total)]
    assert betas == pytest.approx(expected)
    assert betas[0] == 0
    assert betas[-1] > 1
    assert list((tmp_path / "r" / "tensorboard").glob("events*")), "TensorBoard's place stays"


def test_the_kl_weight_of_the_running_means_is_logged_and_unused_flags_warn(data, tmp_path):
    with pytest.warns(UserWarning, match="--kl-loss-weight and --kl-schedule have no effect"):
        train(data, tmp_path, do_running_mean=True, kl_loss_weight=7, epochs=1, tensorboard=False)
    records = metrics(tmp_path / "r", "train")
    running = torch.zeros(2)
    for record in records:
        _, weight = balance(*running)
        assert record["beta"] == pytest.approx(float(weight), rel=1e-4)
        means = torch.tensor([record["recon"], record["kl"]])
        running = 0.9 * running + 0.1 * means
    assert records[0]["beta"] == 0.5
    assert records[-1]["beta"] > 0.6


def test_a_checkpoint_with_other_noise_says_so(data, tmp_path, monkeypatch):
    """As those of versions that drew it by torch's generators."""
    monkeypatch.setattr("vae_dist.run.resume.NOISE", "older")
    train(data, tmp_path, epochs=1, tensorboard=False)
    monkeypatch.undo()
    resumed = train(data, tmp_path, epochs=2, tensorboard=False, resume="auto")
    assert "not with the same noise" in resumed.origin


def test_a_step_is_taken_apart(data):
    """Its parts make up the whole, and its products are less than that."""
    found = take_apart(data.path, "fc_conv", 256, 1)
    assert sum(found["share"].values()) == pytest.approx(1)
    assert found["share"]["backward"] > 0.05
    assert 0 < found["launches"] < found["calls"]
    assert found["products_seconds"] > 0


def test_a_loop_trains_when_it_is_its_turn(data, tmp_path):
    loop = Contender("bare", str(data.path), "fc", "64", threads=1, cache=tmp_path)
    try:
        loop.wait_until_ready()
        for _ in range(2):
            loop.turn(0.05)
        assert min(loop.found) > 0
    finally:
        loop.close()
    broken = Contender("bare", str(data.path), "no_such_model", "64", threads=1, cache=tmp_path)
    try:
        with pytest.raises(RuntimeError, match="bare ended"):
            broken.wait_until_ready()
    finally:
        broken.close()


def test_a_setting_without_effect_is_said_once_and_in_one_line(tmp_path):
    """What the settings say while the flags are read is not swallowed with tyro's complaints."""
    data = written(tmp_path / "data", digits())
    words = ["train", "--data", str(data.path), "--runs-dir", str(tmp_path), "--name", "a"]
    words += ["--model-type", "fc", "--max-steps", "1", "--tensorboard", "False"]
    words += ["--compile-mode", "max-autotune", "--cuda-graph", "on", "--no-cuda", "True"]
    done = subprocess.run(
        [sys.executable, "-m", "launch.cli", *words],
        env=environment(PYTHONWARNINGS="default"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    for line in (
        "vae-dist: warning: --compile-mode has no effect without --compile True",
        "vae-dist: warning: --cuda-graph on has no effect: this runs on the CPU",
    ):
        assert done.stderr.splitlines().count(line) == 1, done.stderr
