"""Checkpoints are taken at their word, and a run folder holds one history."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from data_pipeline.errors import UserError
from vae_dist.run.checkpoint import (
    CheckpointConfig,
    fault_of,
    link,
    load_checkpoint,
    load_model,
    save_checkpoint,
)
from vae_dist.run.folder import RunFolder
from vae_dist.run.history import best_score, go_back
from vae_dist.run.which_checkpoint import linked, list_checkpoints, own_checkpoint, prune, step_of
from vae_dist.sinks import JsonLines

SCORES = {9: 5.0, 18: 3.0, 27: 4.0, 36: 2.0}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four checkpoints, the last one the best; figures of 40 steps; TensorBoard's files."""
    from torch.utils.tensorboard import SummaryWriter

    folder = tmp_path / "r"
    for step, score in SCORES.items():
        meta = {"step": step, "epoch": step / 9, "score": score}
        save_checkpoint(folder / "checkpoints", {"w": torch.full((2,), float(step))}, {}, meta)
    link(folder / "checkpoints", "best", folder / "checkpoints" / "step-00000036")
    lines = [{"split": "train", "step": step, "loss": 1.0} for step in range(1, 41)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with SummaryWriter(str(folder / "tensorboard")) as writer:
        for step in range(1, 41):
            writer.add_scalar("train_loss", 1.0, step)
        for epoch in range(1, 5):
            writer.add_scalar("eph_tr_loss", 1.0, epoch)
    return folder


def steps(run: Path, tag: str) -> list[int]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


@pytest.mark.parametrize("name", ["model.safetensors", "trainer.pt"])
def test_a_changed_byte_is_found_by_its_hash(run: Path, name: str) -> None:
    checkpoint = run / "checkpoints" / "step-00000036"
    content = bytearray((checkpoint / name).read_bytes())
    content[-1] ^= 1
    (checkpoint / name).write_bytes(content)
    assert "SHA-256" in fault_of(checkpoint)
    with pytest.raises(UserError, match="SHA-256"):
        load_checkpoint(checkpoint)
    found, note = own_checkpoint(run / "checkpoints")
    assert found is not None
    assert found.name == "step-00000027"
    assert "step-00000036 is damaged" in note


def test_weights_are_read_without_the_optimizer_and_never_when_changed(run: Path) -> None:
    checkpoint = run / "checkpoints" / "step-00000036"
    (checkpoint / "trainer.pt").unlink()
    weights, meta = load_model(checkpoint)
    assert meta.step == 36
    assert torch.equal(weights["w"], torch.full((2,), 36.0))
    with pytest.raises(UserError, match=r"trainer\.pt"):
        load_checkpoint(checkpoint)
    (checkpoint / "model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="SHA-256"):
        load_model(checkpoint)


def test_last_is_believed_and_not_the_highest_step(run: Path) -> None:
    checkpoints = run / "checkpoints"
    link(checkpoints, "last", checkpoints / "step-00000018")
    assert own_checkpoint(checkpoints) == (checkpoints / "step-00000018", "")
    for path in checkpoints.glob("step-*/model.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="no complete checkpoint"):
        own_checkpoint(checkpoints)


def test_pruning_keeps_the_best(run: Path) -> None:
    checkpoints = run / "checkpoints"
    link(checkpoints, "best", checkpoints / "step-00000018")
    prune(checkpoints, CheckpointConfig(keep_last=1))
    assert sorted(path.name for path in checkpoints.glob("step-*")) == [
        "step-00000018",
        "step-00000036",
    ]


def test_going_back_sets_aside_what_lies_beyond(run: Path) -> None:
    told = go_back(run, 18, 2)
    aside = run / "abandoned-after-step-00000018"
    assert str(aside) in told
    assert sorted(p.name for p in (aside / "checkpoints").iterdir()) == [
        "step-00000027",
        "step-00000036",
    ]
    assert steps(run, "train_loss") == list(range(1, 19))
    assert steps(run, "eph_tr_loss") == [1, 2]
    assert steps(aside, "eph_tr_loss") == [1, 2, 3, 4]
    assert len((aside / "metrics.jsonl").read_text().splitlines()) == 40
    for name in ("last", "best"):
        named = linked(run / "checkpoints", name)
        assert named is not None
        assert named.name == "step-00000018"
    assert best_score(run / "checkpoints", 99.0) == 3.0
    assert go_back(run, 18, 2) == ""


def test_going_back_compares_scores_of_one_figure(tmp_path: Path) -> None:
    """Losses before and after some epochs whose best was chosen by SSIM, which is always below."""
    checkpoints = tmp_path / "checkpoints"
    found = [("loss", 220.0), ("ssim", -0.5), ("loss", 225.0), ("loss", 210.0)]
    for step, (best_by, score) in enumerate(found, 1):
        meta = {"step": step, "epoch": step, "score": score, "best_by": best_by}
        save_checkpoint(checkpoints, {"w": torch.zeros(1)}, {}, meta)
    link(checkpoints, "best", checkpoints / "step-00000004")
    go_back(tmp_path, 3, 3)
    assert best_score(checkpoints, None) == 220.0
    go_back(tmp_path, 2, 2)
    assert best_score(checkpoints, None) == -0.5


def test_damaged_lines_are_dropped_and_said(run: Path) -> None:
    path = run / "metrics.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[3] = b"\0" * 40
    lines[5] = b'{"split": "train", "step": "6"}'
    path.write_bytes(b"\n".join(lines) + b'{"split": "tr')
    written = JsonLines(path, 20)
    assert "dropped 2 damaged" in written.notes[0]
    written.close()
    kept = [json.loads(line)["step"] for line in path.read_text().splitlines()]
    assert kept == [step for step in range(1, 21) if step not in (4, 6)]


def test_a_run_that_is_there_is_not_taken_for_another(run: Path, tmp_path: Path) -> None:
    folder = RunFolder(run)
    for resume, told in (("", "--resume auto"), (str(tmp_path / "other"), "does not go on from")):
        with pytest.raises(UserError, match=told):
            folder.take(resume=resume, overwrite=False)
    for resume in ("auto", str(run), str(run / "checkpoints" / "step-00000009")):
        folder.take(resume=resume, overwrite=False)
        with pytest.raises(UserError, match="is being trained already"):
            RunFolder(run).take(resume=resume, overwrite=True)
        folder.release()
    assert sorted(p.name for p in (run / "checkpoints").glob("step-*"))[-1] == "step-00000036"


def test_a_file_in_the_place_of_the_folder_is_the_users(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    for path in (tmp_path / "f" / "r", tmp_path / ("n" * 300)):
        with pytest.raises(UserError, match="cannot be used as a run folder"):
            RunFolder(path).take(resume="", overwrite=False)


def test_the_checkpoint_of_every_second_epoch_is_kept(tmp_path: Path) -> None:
    """Beside the newest one; a checkpoint in the middle of an epoch is none of them."""
    for step, epoch in ((10, 1.0), (20, 2.0), (25, 2.5), (30, 3.0), (40, 4.0), (50, 5.0)):
        save_checkpoint(tmp_path, {"a": torch.zeros(1)}, {}, {"step": step, "epoch": epoch})
    prune(tmp_path, CheckpointConfig(keep_last=1, keep_every_epochs=2))
    assert [step_of(path) for path in list_checkpoints(tmp_path)] == [20, 40, 50]
