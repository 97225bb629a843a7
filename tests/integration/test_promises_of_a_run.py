"""What the usual settings of tests switch off: few checkpoints kept, a log window of several steps,
trackers on, the best by another figure. In-process, one small training each."""

import json
import signal
from pathlib import Path

import pytest

from launch.cli import main
from tests.data_folders import digits, written
from tests.training_runs import flags, metrics
from vae_dist.run.checkpoint import load_checkpoint
from vae_dist.train.signals import StopRequest


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("promises") / "data"
    written(folder, digits())
    return folder


def train(data: Path, **more: object) -> Path:
    """Train in this process; the run's folder."""
    settings = {
        "data": data,
        "runs_dir": data.parent,
        "model_type": "fc",
        "latent_size": 3,
        "batch_size": 200,
        "log_every": 4,
        "keep_last": 1,
        "tensorboard": True,
        "telemetry_interval": 0,
        **more,
    }
    assert main(["train", *flags(settings)]) == 0
    return data.parent / str(settings["name"])


def score(run: Path) -> float | None:
    return load_checkpoint(run / "checkpoints" / "best")[2].best


def test_best_by_ssim_keeps_the_highest_and_pruning_keeps_best(data: Path) -> None:
    """The rate is far too high after the first epoch, so that the first stays the best."""
    run = train(data, name="ssim", best_by="ssim", epochs=3, m1=1, m2=1, lr_gamma=300.0)
    found = [record["ssim"] for record in metrics(run, "val")]
    best = max(range(len(found)), key=found.__getitem__)
    assert best < len(found) - 1, "the last epoch must not be the best for this test to tell"
    link = (run / "checkpoints" / "best").readlink().name
    assert link == f"step-{(best + 1) * len_of_epoch(run):08d}"
    kept = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    assert kept == sorted({link, (run / "checkpoints" / "last").readlink().name})
    assert score(run) == pytest.approx(-max(found))


def len_of_epoch(run: Path) -> int:
    return metrics(run, "val")[0]["step"]


def test_a_resume_remembers_the_best_score(data: Path) -> None:
    """A worse epoch after a resume does not take the place of the best one before."""
    run = train(data, name="best", epochs=1)
    before = (run / "checkpoints" / "best").readlink(), score(run)
    # The first epoch after the resume is made worse by a rate that is far too high.
    train(data, name="best", epochs=2, resume="auto", lr=0.5)
    assert metrics(run, "val")[1]["loss"] > metrics(run, "val")[0]["loss"]
    assert ((run / "checkpoints" / "best").readlink(), score(run)) == before


def test_another_measure_of_the_best_is_said_and_the_former_score_forgotten(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A loss and an SSIM cannot be compared: the first validation by the new one is the best."""
    run = train(data, name="measure", epochs=1)
    train(data, name="measure", epochs=2, resume="auto", best_by="ssim", lr=0.5)
    said = capsys.readouterr().out
    assert "--best-by is ssim and was loss" in said
    assert (run / "checkpoints" / "best").readlink().name == f"step-{2 * len_of_epoch(run):08d}"
    assert score(run) == pytest.approx(-metrics(run, "val")[1]["ssim"])
    train(data, name="measure", epochs=3, resume="auto", best_by="ssim")
    assert "--best-by" not in capsys.readouterr().out


def test_another_augmentation_after_a_resume_is_said(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is in config.json and in the checkpoint; the 2018 flag is the same as its list."""
    run = train(data, name="augmented", max_steps=1, do_augs=True)
    train(data, name="augmented", max_steps=2, resume="auto", augment="rotate,flip", do_augs=False)
    assert "leaves the course" not in capsys.readouterr().out
    assert json.loads((run / "config.json").read_text())["augment"]["augment"] == "rotate,flip"
    crop = {"augment": "crop,flip,rotate,colour", "resume": "auto"}
    train(data, name="augmented", max_steps=3, **crop)
    said = capsys.readouterr().out
    assert "--augment is crop,flip,rotate,colour and was flip,rotate, so the run leaves" in said
    train(data, name="augmented", max_steps=4, crop_scale="0.5,1", **crop)
    assert "--crop-scale is 0.5,1 and was 0.08,1, so the run leaves" in capsys.readouterr().out


def test_both_flags_of_augmentation_are_refused(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"data": data, "do_augs": True, "augment": "crop"}
    assert main(["train", *flags(words)]) == 2
    assert "--augment crop with --do-augs True: " in capsys.readouterr().err


def test_overwrite_beside_resume_is_said_to_do_nothing(data: Path) -> None:
    run = train(data, name="both", epochs=1)
    with pytest.warns(UserWarning, match="--overwrite True has no effect with --resume auto"):
        train(data, name="both", epochs=2, resume="auto", overwrite=True)
    assert len(metrics(run, "val")) == 2


def test_log_lines_after_a_resume_are_those_of_a_run_without_the_stop(data: Path) -> None:
    """Also where the stop was between two of them."""
    whole = train(data, name="whole", epochs=1)
    train(data, name="parts", epochs=1, max_steps=2)
    parts = train(data, name="parts", epochs=1, resume="auto")
    ours, theirs = metrics(parts, "train"), metrics(whole, "train")
    assert [record["step"] for record in theirs] == [4]
    keys = ("step", "loss", "recon", "kl", "beta", "lr")
    assert [[r[k] for k in keys] for r in ours] == [[r[k] for k in keys] for r in theirs]
    assert theirs[0]["beta"] == 1.0


def test_tensorboard_is_written_under_both_names(data: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(data, name="board", epochs=1)
    events = EventAccumulator(str(next(iter((run / "tensorboard").rglob("events*")))))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train_loss", "val_loss", "eph_val_loss"} <= set(tags)
    assert events.Scalars("val_loss")[0].value == pytest.approx(metrics(run, "val")[0]["loss"])
    assert json.loads((run / "config.json").read_text())["log"]["tensorboard"] is True


def test_a_second_ctrl_c_stops_at_once() -> None:
    """The first asks for a checkpoint; the second is for the person who will not wait."""
    request = StopRequest()
    request._receive(signal.SIGINT, None)
    assert request.requested
    with pytest.raises(KeyboardInterrupt):
        request._receive(signal.SIGINT, None)


def test_a_second_sigterm_changes_nothing() -> None:
    request = StopRequest()
    request._receive(signal.SIGTERM, None)
    request._receive(signal.SIGTERM, None)
    assert request.reason == "SIGTERM"
