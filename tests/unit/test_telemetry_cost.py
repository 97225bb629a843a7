"""What telemetry costs a step; the figures for the record: vae-dist bench telemetry."""

import json

import pytest

from benchmarks.telemetry import TelemetryBenchConfig, measure
from launch.bench.telemetry import main
from vae_dist.telemetry import TelemetryConfig


@pytest.fixture(scope="module")
def found():
    return measure(TelemetryBenchConfig(pairs=2, turn_seconds=1.0), TelemetryConfig())


@pytest.mark.slow
def test_telemetry_takes_less_than_a_hundredth_of_the_time(found):
    # CPU time, which a busy test machine does not touch; a turn of 1 s holds 2 samples or 3
    assert 0 < found["cpu_share"] < 0.01
    assert found["step_call_seconds"] < 0.01 * found["step_seconds"]


def test_the_result_says_on_what_it_was_measured(found):
    assert {"machine", "torch", "device", "threads", "batch_size", "pairs"} <= set(found)
    assert found["ratio_quartiles"][0] <= found["ratio"] <= found["ratio_quartiles"][1]


def test_json_is_one_object(capsys):
    assert main(["--pairs", "1", "--turn-seconds", "0.1", "--batch-size", "8", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == 1


@pytest.mark.parametrize("words", [["--telemetry-interval", "0"], ["--pairs", "0"]])
def test_settings_that_measure_nothing_are_a_users_error(words):
    with pytest.raises(ValueError, match=words[0]):
        main(words)
