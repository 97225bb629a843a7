"""Sampling, counting and summing up, without a GPU."""

import json
import logging
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from data_pipeline.order import World
from vae_dist.telemetry import (
    StageTimer,
    Telemetry,
    TelemetryConfig,
    compare,
    make_telemetry,
    table,
    telemetry_file,
)
from vae_dist.telemetry.device import DEVICE_FIELDS
from vae_dist.telemetry.process import ALLOCATOR_FIELDS, PROCESS_FIELDS, allocator_figures
from vae_dist.telemetry.throughput import THROUGHPUT_FIELDS, StepCounter, quantile


def make(run_dir: Path, rank: int = 0, interval: float = 0.05, writer=None) -> Telemetry:
    return make_telemetry(
        TelemetryConfig(telemetry_interval=interval, telemetry_device="none"),
        run_dir=run_dir,
        device=torch.device("cpu"),
        world=World(rank, rank + 1),
        writer=writer,
    )


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def render(summaries: list[dict], width: int = 200) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(summaries))
    return console.export_text()


@pytest.mark.parametrize("rank", [0, 3])
def test_a_cpu_run_has_process_and_throughput_figures_and_null_device_figures(tmp_path, rank):
    with make(tmp_path, rank) as telemetry:
        for _ in range(10):
            time.sleep(0.012)
            telemetry.step(images=32, seconds=0.010, data_seconds=0.004)
        summary = telemetry.summary()
    name = "telemetry.jsonl" if rank == 0 else "telemetry-rank00003.jsonl"
    assert telemetry_file(tmp_path, rank) == tmp_path / name
    records = lines(tmp_path / name)
    assert len(records) >= 3
    for record in records:
        assert record["rank"] == rank
        assert all(record[field] is None for field in (*DEVICE_FIELDS, *ALLOCATOR_FIELDS))
        assert all(record[field] is not None for field in PROCESS_FIELDS)
        assert set(THROUGHPUT_FIELDS) < set(record)
    assert max(record["images_per_second"] or 0 for record in records) == pytest.approx(3200)
    assert (summary["steps"], summary["images"]) == (10, 320)
    assert summary["images_per_second"] == pytest.approx(3200)
    assert summary["data_wait_share"] == pytest.approx(0.4)
    assert summary["step_seconds_p95"] == pytest.approx(0.010)
    assert summary["peak_rss_bytes"] > 1e7
    assert summary["energy_joules"] is None
    assert summary["images_per_joule"] is None
    json.dumps(summary, allow_nan=False)


def test_a_resumed_run_counts_its_steps_on(tmp_path):
    telemetry = make_telemetry(
        TelemetryConfig(telemetry_interval=0.05, telemetry_device="none"),
        run_dir=tmp_path,
        device=torch.device("cpu"),
        world=World(),
        first_step=700,
    )
    with telemetry:
        for _ in range(3):
            telemetry.step(images=32, seconds=0.010, data_seconds=0.004)
        time.sleep(0.05)  # an interval: the last sample is younger than the last step
        assert telemetry.summary()["steps"] == 3  # speed is this process's own
    assert lines(tmp_path / "telemetry.jsonl")[-1]["step"] == 703


def test_interval_zero_starts_no_thread_writes_no_file_and_still_counts(tmp_path):
    with make(tmp_path, interval=0) as telemetry:
        telemetry.step(8, 0.5, 0.1)
    assert not list(tmp_path.iterdir())
    assert telemetry.snapshot() == {}
    assert telemetry.summary()["images_per_second"] == 16


def test_a_half_line_left_by_a_killed_run_does_not_spoil_the_next_record(tmp_path):
    (tmp_path / "telemetry.jsonl").write_text('{"time": 1.0}\n{"time": 2')
    with make(tmp_path):
        pass
    first, torn, *rest = (tmp_path / "telemetry.jsonl").read_text().splitlines()
    assert json.loads(first)
    assert torn == '{"time": 2'
    assert all(json.loads(line)["rank"] == 0 for line in rest)


def test_a_file_that_cannot_be_written_costs_one_warning(tmp_path, caplog):
    (tmp_path / "telemetry.jsonl").mkdir()
    with make(tmp_path) as telemetry:
        time.sleep(0.2)
    assert len(caplog.records) == 1
    assert "cannot write" in caplog.text
    assert telemetry.summary()["samples"] >= 3


def test_a_writer_that_fails_costs_one_warning(tmp_path, caplog):
    def writer(record):
        raise RuntimeError("no such sink")

    with caplog.at_level(logging.WARNING), make(tmp_path, writer=writer):
        time.sleep(0.2)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "no such sink" in caplog.text


def test_scalars_are_the_numbers_of_the_snapshot(tmp_path):
    with make(tmp_path) as telemetry:
        telemetry.step(8, 0.5, 0.1)
    scalars = telemetry.scalars()
    assert scalars["process_rss_bytes"] == telemetry.snapshot()["process_rss_bytes"]
    assert all(isinstance(value, float) for value in scalars.values())
    assert not {"time", "rank", "device_uuid", "device_power_watts"} & set(scalars)


def test_quantiles_are_numpys():
    values = sorted(np.random.default_rng(0).gamma(2.0, size=101).tolist())
    for q in (0.0, 0.5, 0.95, 1.0):
        assert quantile(values, q) == pytest.approx(np.quantile(values, q))


def test_windows_begin_where_the_last_ended():
    counter = StepCounter()
    assert counter.take()["images_per_second"] is None
    counter.add(10, 1.0, 0.5)
    counter.add(10, 3.0, 0.5)
    assert counter.take() == {
        "images_per_second": 5.0,
        "data_wait_share": 0.25,
        "step_seconds_p50": 2.0,
        "step_seconds_p95": pytest.approx(2.9),
        "step_seconds_max": 3.0,
    }
    assert counter.take()["step_seconds_max"] is None
    counter.add(20, 1.0, 0.0)
    assert counter.total()["images_per_second"] == 8.0


def test_allocator_figures_are_those_of_torch():
    stats = {
        "allocated_bytes.all.current": 60,
        "allocated_bytes.all.peak": 90,
        "reserved_bytes.all.current": 200,
        "reserved_bytes.all.peak": 220,
        "inactive_split_bytes.all.current": 50,
        "num_alloc_retries": 2,
        "num_ooms": 1,
    }
    assert list(allocator_figures(stats).values()) == [60, 200, 90, 220, 2, 1, 0.25]
    assert set(allocator_figures({})) == set(ALLOCATOR_FIELDS)
    documented = torch.cuda.memory.memory_stats.__doc__
    for name in stats:
        family, *_ = name.split(".")
        assert f'"{family}' in documented or f"``{family}" in documented, name


def rank_summary(rank: int, **figures) -> dict:
    return {"rank": rank, "images": 100, "images_per_second": 50.0, **figures}


def test_stragglers_are_found_by_a_ranks_own_time_not_by_the_step_all_wait_for():
    ranks = [
        rank_summary(rank, step_seconds_p50=0.1, work_seconds=0.09 if rank == 2 else 0.05)
        for rank in range(4)
    ]
    whole = compare(reversed(ranks))
    assert whole["stragglers"] == [2]
    assert whole["slowest_rank"] == 2
    assert whole["slowest_ratio"] == pytest.approx(1.8)
    assert whole["images_per_second"] == 200
    assert [rank["rank"] for rank in whole["ranks"]] == [0, 1, 2, 3]
    assert "2 slow" in render(ranks)


def test_of_two_ranks_the_slower_is_the_straggler():
    ranks = [rank_summary(0, step_seconds_p50=0.15), rank_summary(1, step_seconds_p50=0.1)]
    assert compare(ranks)["stragglers"] == [0]
    assert compare(ranks[:1])["stragglers"] == []
    assert compare(ranks[:1])["slowest_rank"] is None


def test_a_card_that_two_ranks_share_counts_its_energy_once():
    ranks = [
        rank_summary(0, energy_joules=10.0, device_card="GPU-a"),
        rank_summary(1, energy_joules=10.5, device_card="GPU-a"),
        rank_summary(2, energy_joules=9.5, device_card="GPU-b"),
    ]
    assert compare(ranks)["energy_joules"] == 20
    assert compare(ranks)["images_per_joule"] == 15


def test_the_table_leaves_out_what_no_rank_has():
    text = render([rank_summary(0, peak_rss_bytes=3 * 2**30, torch_device="cpu")], width=80)
    assert "3.0 GiB" in text
    assert "power" not in text
    assert "power" in render([rank_summary(0, mean_power_watts=212.0)])
    assert compare([]) | {"ranks": []} == compare([{}])


@pytest.mark.parametrize(
    ("field", "value"),
    [("telemetry_interval", -1), ("telemetry_interval", 0.01), ("telemetry_device", "0,,1")],
)
def test_wrong_settings_are_named_as_the_user_typed_them(field, value):
    with pytest.raises(ValueError, match="--" + field.replace("_", "-")):
        TelemetryConfig(**{field: value})


def test_stage_timer_sees_time_and_the_peak_of_memory_that_is_gone_again():
    with StageTimer("cpu") as outer:
        with StageTimer("cpu") as quiet:
            time.sleep(0.03)
        with StageTimer(torch.device("cpu")) as loud:
            held = torch.ones(50_000_000)
            time.sleep(0.05)
            del held
    assert 0.03 <= quiet.seconds < loud.seconds + quiet.seconds <= outer.seconds
    assert loud.memory_kind == "rss"
    assert loud.peak_memory_bytes - quiet.peak_memory_bytes > 150_000_000
    assert outer.peak_memory_bytes >= loud.peak_memory_bytes
    assert loud.peak_device_bytes is None


def test_stage_timer_ends_with_the_stage_that_fails():
    with pytest.raises(KeyError), StageTimer() as timer:
        raise KeyError
    assert timer.seconds > 0


def test_the_table_says_by_which_figure_a_rank_is_slowest_and_of_peaks_where_there_are_some():
    ranks = [rank_summary(r, step_seconds_p50=0.1, work_seconds=0.05 * (r + 1)) for r in range(3)]
    assert compare(ranks)["slowest_by"] == "work_seconds"
    text = " ".join(render(ranks, width=200).split())
    assert "slowest rank by time of its own work a step: 2, 1.50 x the median of all ranks" in text
    assert "peaks" not in text
    ranks[0].pop("work_seconds")  # not measured on every rank: compared by what all have
    assert compare(ranks)["slowest_by"] == "step_seconds_p50"
    assert "Memory: peaks" in render([rank_summary(0, peak_rss_bytes=2**30)])


def test_no_table_of_a_run_that_ends_before_its_first_step():
    assert render([rank_summary(0, images_per_second=None)]).strip() == ""


def test_no_figure_of_a_gpus_rank_is_cut_at_80_columns():
    figures = {
        "device_name": "NVIDIA H100 80GB HBM3",
        "images_per_second": 1_456_619.0,
        "step_seconds_max": 0.2814,
        "data_wait_share": 0.074,
        "mean_utilization_percent": 100.0,
        "mean_power_watts": 650.0,
        "peak_allocated_bytes": 1015 * 2**20,
        "peak_reserved_bytes": 1016 * 2**20,
        "peak_device_bytes": 1017 * 2**20,
        "headroom_bytes": 78.2 * 2**30,
        "peak_rss_bytes": 12.5 * 2**30,
    }
    text = render([rank_summary(rank, **figures) for rank in (0, 15)], width=80)
    assert "…" not in text
    for figure in ("1,456,619", "281.4 ms", "1015 MiB", "1016 MiB", "1017 MiB", "78.2 GiB", "12.5 GiB"):  # fmt: skip
        assert text.count(figure) == 2, figure
