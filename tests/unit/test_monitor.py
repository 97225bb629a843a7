"""Reading a run that is being written, and the frame made of it."""

import dataclasses
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from data_pipeline.errors import UserError
from launch.monitor.command import _spell_once, newest_run
from launch.monitor.reader import TAIL_BYTES, LineReader, RunReader
from launch.monitor.view import alerts, frame, sparkline


def write(path: Path, *objects: dict, mode: str = "a") -> None:
    with open(path, mode) as file:
        file.writelines(json.dumps(value) + "\n" for value in objects)


def sample(rank: int, age: float = 0.0, **figures) -> dict:
    return {"time": time.time() - age, "rank": rank, "step": 5, "device_index": None} | {
        "device_utilization_percent": None,
        **figures,
    }


@dataclasses.dataclass
class Letters:
    """Lines of the tests."""

    a: int = 0
    b: int = 0


@pytest.fixture
def run(tmp_path) -> Path:
    folder = tmp_path / "first"
    folder.mkdir()
    status = {"state": "running", "world_size": 2, "step": 10, "total_steps": 40}
    (folder / "status.json").write_text(json.dumps(status))
    config = {"run": {"batch_size": 64}, "model": {"model_type": "fc", "latent_size": 10}}
    (folder / "config.json").write_text(json.dumps(config | {"data": {"name": "digits"}}))
    train = {"split": "train", "step": 20, "epoch": 1.0, "loss": 300.5, "images_per_second": 128}
    write(folder / "metrics.jsonl", train, {"split": "val", "step": 20, "loss": 290.25})
    write(folder / "telemetry.jsonl", sample(0, process_rss_bytes=2**30, images_per_second=64.0))
    write(folder / "telemetry-rank00001.jsonl", sample(1, process_rss_bytes=2**31))
    return folder


def text(folder: Path) -> str:
    reader = RunReader(folder)
    reader.update()
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(frame(reader, 120))
    return console.export_text()


def test_a_frame_shows_state_metrics_and_all_ranks(run):
    shown = text(run)
    for part in ("first", "running", "step 20 of 40", "0:00:10 left", "300.50", "290.25"):
        assert part in shown
    assert "1.0 GiB" in shown
    assert "2.0 GiB" in shown
    assert "fc z=10 on digits" in shown
    assert "power" not in shown  # no rank has it


def test_a_reader_takes_only_whole_new_lines(tmp_path):
    path = tmp_path / "lines.jsonl"
    reader = LineReader(path, Letters)
    assert reader.read() == ([], False)
    path.write_text('{"a": 1}\n{"a"')
    assert reader.read() == ([{"a": 1}], False)
    with open(path, "a") as file:
        file.write(': 2}\nnot json\n[3]\n{"a": "x"}\n\0\0\0\n{"a": 4}\n')
    assert reader.read() == ([{"a": 2}, {"a": 4}], False)
    assert reader.read() == ([], False)
    path.write_text('{"b": 1}\n')  # a resumed run writes it anew
    assert reader.read() == ([{"b": 1}], True)


def test_a_long_file_is_read_from_near_its_end(tmp_path):
    path = tmp_path / "long.jsonl"
    count = TAIL_BYTES // 10
    path.write_text(
        "".join(f'{{"a": {number:06d}1}}\n'.replace(": 0", ": 1") for number in range(count))
    )
    objects, _ = LineReader(path, Letters).read()
    assert 0 < len(objects) < count
    assert objects[-1] == json.loads(path.read_text().splitlines()[-1])


def test_a_rank_that_stopped_writing_is_named(run):
    write(run / "telemetry-rank00001.jsonl", sample(1, age=60), mode="w")
    reader = RunReader(run)
    reader.update()
    assert list(reader.silent) == [1]
    assert any("rank 1: no sample for 60 s" in line for line in alerts(reader))
    (run / "status.json").write_text(json.dumps({"state": "done", "world_size": 2}))
    reader.update()
    assert not reader.silent


def test_hot_starved_and_faulty_ranks_are_named(run):
    figures = {"device_throttle_reasons": ["hw_thermal_slowdown"], "data_wait_share": 0.5}
    figures |= {"allocator_retries": 3, "device_ecc_uncorrected": 2}
    write(run / "telemetry.jsonl", *[sample(0, **figures)] * 3)
    reader = RunReader(run)
    reader.update()
    named = "\n".join(alerts(reader))
    for part in ("hw_thermal_slowdown", "50% of a step", "3 times", "2 uncorrected"):
        assert part in named


def test_ranks_of_a_larger_world_before_are_left_out(run):
    write(run / "telemetry-rank00002.jsonl", sample(2))
    reader = RunReader(run)
    reader.update()
    assert set(reader.ranks) == {0, 1}
    (run / "status.json").write_text(json.dumps({"state": "running", "world_size": 1}))
    reader.update()
    assert set(reader.ranks) == {0}


def test_a_run_that_has_only_begun_has_a_frame(tmp_path):
    (tmp_path / "status.json").write_text('{"state": "starting"}')
    assert "no telemetry yet" in text(tmp_path)
    (tmp_path / "status.json").write_text('{"state": ')  # being written by something not atomic
    assert "unknown" in text(tmp_path)


def test_what_is_no_run_is_a_users_error(tmp_path):
    with pytest.raises(ValueError, match="not a run folder"):
        RunReader(tmp_path)
    with pytest.raises(ValueError, match="holds no run"):
        newest_run(tmp_path)


def test_the_newest_run_is_watched_where_none_is_named(run):
    assert newest_run(run.parent) == run


def test_the_run_may_follow_once():
    assert _spell_once(["--once", "runs/a"]) == ["--once=True", "runs/a"]
    assert _spell_once(["runs/a", "--once", "True"]) == ["runs/a", "--once", "True"]
    assert _spell_once(["runs/a", "--once"]) == ["runs/a", "--once=True"]


def test_sparklines_span_their_values():
    assert sparkline([0, 1, 2, 3], 4) == "▁▃▆█"
    assert sparkline([5, 5], 4) == "▁▁"
    assert sparkline([1, 9, 9], 2) == "▁▁"
    assert sparkline([], 4) == ""


@pytest.mark.parametrize(
    "change",
    [
        {"state": ["running"]},
        {"step": "5"},
        {"world_size": {}},
        {"telemetry": {"ranks": ["x"]}},
        {"telemetry": {"stragglers": None}},
    ],
)
def test_a_status_of_another_structure_is_refused_in_one_line(run, change):
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps(status | change))
    with pytest.raises(UserError, match=r"status\.json: damaged: "):
        text(run)


def test_samples_of_another_structure_are_left_out(run):
    write(run / "telemetry.jsonl", sample(0, process_rss_bytes="much"), sample(0, time=None))
    assert "running" in text(run)
