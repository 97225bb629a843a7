"""How a training ends for a person: what is said, and the command that resumes it."""

import io
import re
import signal

import pytest

from launch import train as command
from launch.config import parse
from tests.data_folders import digits, written
from tests.training_runs import flags
from vae_dist.sinks import Console
from vae_dist.train.settings import RunConfig
from vae_dist.train.signals import STOP_SIGNALS, StopRequest

SMALL = {
    "model_type": "fc",
    "latent_size": 3,
    "epochs": 2,
    "batch_size": 512,
    "telemetry_interval": 0,
    "tensorboard": False,
    "no_cuda": True,
}


@pytest.fixture
def signals():
    """Handlers that a training installs are taken back."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_end_names_the_checkpoint_and_the_command_that_goes_on(
    tmp_path, monkeypatch, capfd, signals
):
    """Stopped by Ctrl-C, resumed by the command that was named, used by ``--resume RUN``."""
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "d", digits())
    stop = StopRequest()
    monkeypatch.setattr(stop, "install", lambda: stop)
    stop._receive(signal.SIGINT, None)
    words = flags({**SMALL, "data": "d", "name": "mine"})
    assert command.main(words, stop) == 75
    said = capfd.readouterr()
    assert "stopping after this step" in said.err
    assert "stopped by SIGINT after step 0: runs/mine/checkpoints/last" in said.out
    resume = re.search(r"resume with: vae-dist train (.*)", said.out).group(1)
    assert resume == "--resume runs/mine"

    assert command.main(resume.split()) == 0, "every setting comes from the run"
    said = capfd.readouterr().out
    assert "done: 2 epoch(s), 6 steps" in said
    assert re.search(
        r"best checkpoint: runs/mine/checkpoints/best \(step-\d+, validation loss", said
    )
    assert "next: vae-dist evaluate --runs runs/mine --data " in said

    assert command.main([*resume.split(), "--evaluate", "True"]) == 0
    assert "val   loss" in capfd.readouterr().out.replace("epoch 2.00  ", "")
    assert not (tmp_path / "data").exists(), "nothing is prepared for a run that has its data"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine"]


def test_flags_beat_the_settings_of_the_resumed_run(tmp_path):
    run = tmp_path / "runs" / "old"
    (run / "checkpoints" / "last").mkdir(parents=True)
    (run / "config.json").write_text(
        '{"data": {"path": "d"}, "run": {"epochs": 7, "batch_size": 9, "resume": "auto",'
        ' "status_file": null, "overwrite": true, "name": "before", "gone": 1}}'
    )
    for named in (run, run / "checkpoints" / "last"):
        (config,) = parse("train", [RunConfig], ["--resume", str(named), "--epochs", "8"])
        assert (config.epochs, config.batch_size) == (8, 9)
        assert (config.name, config.runs_dir) == ("old", str(tmp_path / "runs"))
        assert config.resume == str(named)
        assert not config.overwrite
    (config,) = parse("train", [RunConfig], ["--resume", "auto"])
    assert config.epochs == RunConfig().epochs


class Terminal(io.StringIO):
    """Says that it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_bar_keeps_one_line_of_80_columns_and_ends_full(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    for name, value in {"COLUMNS": "80", "TERM": "xterm", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    console = Console(total_steps=123_456)
    figures = {"epoch": 1.5, "loss": 243.1234, "recon": 229.61, "kl": 14.15, "ssim": 0.6718}
    console.record({"split": "train", "step": 100_000, "images_per_second": 12345.6, **figures})
    console.record({"split": "val", "step": 123_456, **figures})
    console.close()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    bars = [line for line in re.split(r"[\r\n]", text) if line.startswith("step")]
    assert bars
    assert all(len(line.rstrip()) <= 80 for line in bars)
    assert "123456/123456" in bars[-1]
    assert "100%" in bars[-1]
    assert "loss 243.12" in bars[-1]
