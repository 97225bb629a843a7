"""The snapshot and the advice, with figures of a GPU that is not there."""

import json

import pytest
import torch

from vae_dist.failures.out_of_memory import OutOfMemoryObserver, advise, explain, is_out_of_memory
from vae_dist.losses import LossConfig
from vae_dist.memory.estimate import MemoryConfig
from vae_dist.train.accelerator import PrecisionConfig
from vae_dist.train.settings import RunConfig, Settings

GIB = 2**30
CUDA = torch.device("cuda", 0)
ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU of 80 GiB: torch holds 50 of which 20 lie in fragments, others hold 29."""
    stats = {
        "allocated_bytes.all.current": 28 * GIB,
        "reserved_bytes.all.current": 50 * GIB,
        "inactive_split_bytes.all.current": 20 * GIB,
        "num_alloc_retries": 4,
    }
    block = {"state": "active_allocated", "frames": [{"filename": "a.py", "line": 7, "name": "f"}]}
    blocks = [block | {"size": size} for size in (512, GIB)] + [{"state": "inactive", "size": 1}]
    segments = [{"device": 0, "stream": 0, "blocks": blocks}, {"device": 1, "blocks": [block]}]
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    monkeypatch.setattr(torch.cuda, "memory_summary", lambda device: "a summary")
    monkeypatch.setattr(torch.cuda, "memory_snapshot", lambda: segments)


def observer(folder) -> OutOfMemoryObserver:
    return OutOfMemoryObserver(folder, 3, CUDA, MemoryConfig())


def test_the_snapshot_is_taken_at_the_failure_and_the_report_is_one_screen(tmp_path, gpu):
    taken = observer(tmp_path)
    taken.take(0, 2 * GIB, 80 * GIB, GIB)
    snapshot = json.loads((tmp_path / "oom-rank00003.json").read_text())
    assert snapshot["wanted_bytes"] == 2 * GIB
    assert [block["bytes"] for block in snapshot["blocks"]] == [GIB, 512]
    assert snapshot["blocks"][0]["frames"] == ["a.py:7 f"]
    assert (tmp_path / "oom-rank00003.txt").read_text() == "a summary\n"
    text = taken.report(ERROR, Settings(run=RunConfig(batch_size=512)), 2)
    assert len(text.splitlines()) < 24
    for part in ("rank 3 (cuda:0)", "asked for              2.0 GiB", "40% of reserved"):
        assert part in text
    assert "others on the device   29.0 GiB" in text
    assert "--accumulate 2: micro-batches of 128 instead of 256" in text
    assert "oom-rank00003.json, oom-rank00003.txt" in text


def test_the_first_failure_is_kept(tmp_path, gpu):
    taken = observer(tmp_path)
    for wanted in (7, 8):
        taken.take(0, wanted, 80 * GIB, GIB)
    assert json.loads((tmp_path / "oom-rank00003.json").read_text())["wanted_bytes"] == 7


def test_a_snapshot_that_fails_does_not_hide_the_error(tmp_path, gpu):
    (tmp_path / "file").touch()
    taken = observer(tmp_path / "file")
    taken.take(0, 2 * GIB, 80 * GIB, GIB)
    text = taken.report(ERROR, Settings(), 1)
    assert "snapshot_error" in text
    assert "asked for              2.0 GiB" in text


def test_advice_leaves_out_what_is_done_already():
    settings = Settings(
        run=RunConfig(batch_size=8, accumulate=8),
        memory=MemoryConfig(find_batch_size=True, memory_history=True),
        precision=PrecisionConfig(mixed_precision="bf16"),
        loss=LossConfig(),
    )
    assert advise({}, settings, 1, CUDA) == ["a smaller model: even one image does not fit"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ERROR, True),
        (MemoryError("not even one image fits into memory"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), True),
        (RuntimeError("shapes do not match"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_is_out_of_memory(error, expected):
    assert is_out_of_memory(error) is expected


def test_without_a_trainer_the_host_is_described(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    settings = Settings(run=RunConfig(runs_dir=tmp_path, name="early"))
    text = explain(MemoryError("not even one image fits into memory"), settings)
    assert "out of memory on rank 1 (cpu)" in text
    assert (tmp_path / "early" / "oom-rank00001.json").exists()
