"""Training from Python: three lines, callbacks, and no signal handler."""

import signal
from pathlib import Path

import pytest

from data_pipeline.errors import UserError
from tests.data_folders import digits, written
from tests.training_runs import metrics
from vae_dist import Callback, Settings, Trainer
from vae_dist.train.signals import STOP_SIGNALS


class Record(Callback):
    def __init__(self) -> None:
        self.calls: list[tuple[str, object]] = []

    def on_start(self) -> None:
        self.calls.append(("start", None))

    def on_log(self, figures: dict) -> None:
        self.calls.append(("log", figures))

    def on_validation(self, figures: dict) -> None:
        self.calls.append(("validation", figures))

    def on_checkpoint(self, path: Path) -> None:
        assert (path / "meta.json").is_file(), "not complete yet"
        self.calls.append(("checkpoint", path))

    def on_end(self) -> None:
        self.calls.append(("end", None))


class Breaks(Callback):
    """All its other methods are those of `Callback`, which do nothing."""

    def on_log(self, figures: dict) -> None:
        raise RuntimeError("enough")


def settings(folder: Path, **more: object) -> Settings:
    common = {"model_type": "fc", "latent_size": 3, "batch_size": 512, "log_every": 1}
    common |= {"tensorboard": False, "telemetry_interval": 0, "no_cuda": True, "runs_dir": folder}
    return Settings.of(**{**common, **more})


def test_callbacks_see_what_the_run_writes_down(tmp_path: Path) -> None:
    data, record = written(tmp_path / "d", digits()), Record()
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    trainer = Trainer(settings(tmp_path, name="r", epochs=2), data, callbacks=[record])
    assert trainer.train() == 0
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before
    names = [name for name, _ in record.calls]
    assert (names[0], names[-1]) == ("start", "end")
    assert names.count("start") == names.count("end") == 1
    for name, split in (("log", "train"), ("validation", "val")):
        told = [figures for called, figures in record.calls if called == name]
        assert told == metrics(tmp_path / "r", split)
    saved = [path for name, path in record.calls if name == "checkpoint"]
    assert [path.parent for path in saved] == [tmp_path / "r" / "checkpoints"] * 2

    record = Record()
    trainer = Trainer(settings(tmp_path, name="s"), data, callbacks=[record, Breaks()])
    with pytest.raises(RuntimeError, match="enough"):
        trainer.train()
    assert [name for name, _ in record.calls] == ["start", "log", "end"]


def test_a_setting_that_there_is_not_is_named() -> None:
    with pytest.raises(UserError, match="no setting epoch "):
        Settings.of(epoch=3)
