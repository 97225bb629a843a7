"""The real binding, its loading and its error codes, against a stand-in library in C."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nvml.build import environment
from vae_dist.telemetry.device import DEVICE_FIELDS

PROBE = Path(__file__).parents[1] / "nvml" / "probe.py"
GIB = 2**30
A = [f"GPU-a{i}000000-0000-4000-8000-{i:012x}" for i in range(4)]
M = [f"MIG-b1{i}00000-0000-4000-8000-{1:012x}" for i in range(2)]

# name: (--telemetry-device, environment, UUIDs expected for local ranks 0, 1, ...)
CHOICES = {
    "indices": ("auto", {"CUDA_VISIBLE_DEVICES": "2,3"}, [A[2], A[3]]),
    "reordered": ("auto", {"CUDA_VISIBLE_DEVICES": "3,0"}, [A[3], A[0]]),
    "uuids": ("auto", {"CUDA_VISIBLE_DEVICES": f"{A[1]},{A[0]}"}, [A[1], A[0]]),
    "short uuids": ("auto", {"CUDA_VISIBLE_DEVICES": "GPU-a3,GPU-a1000"}, [A[3], A[1]]),
    "one each, from srun": ("auto", {"CUDA_VISIBLE_DEVICES": "2"}, [A[2], A[2]]),
    "cut at the first bad one": ("auto", {"CUDA_VISIBLE_DEVICES": "1,-1,0"}, [A[1], A[1]]),
    "a MIG instance": ("auto", {"CUDA_VISIBLE_DEVICES": M[1], "NVML_MIG": "1:2"}, [M[1]]),
    "the older MIG name": (
        "auto",
        {"CUDA_VISIBLE_DEVICES": f"MIG-{A[1]}/4/0", "NVML_MIG": "1:2"},
        [M[1]],
    ),
    "a card in MIG mode": (
        "auto",
        {"CUDA_VISIBLE_DEVICES": "1,2", "NVML_MIG": "1:2"},
        [M[0], A[2]],
    ),
    "not asked for": ("none", {"CUDA_VISIBLE_DEVICES": "2,3"}, [None, None]),
    "none assigned": ("auto", {}, [None]),
    "hidden": ("auto", {"CUDA_VISIBLE_DEVICES": ""}, [None]),
    "explicit index": ("3", {"CUDA_VISIBLE_DEVICES": "0"}, [A[3], A[3]]),
    "explicit list": ("GPU-a2, 0", {}, [A[2], A[0]]),
    "ambiguous": ("auto", {"CUDA_VISIBLE_DEVICES": "GPU-a"}, [None]),
    "named twice": ("auto", {"CUDA_VISIBLE_DEVICES": "1,1"}, [None]),
    "too high": ("auto", {"CUDA_VISIBLE_DEVICES": "4"}, [None]),
}
# name: (NVML_ERRORS, fields that are null, part of the warning)
FAULTS = {
    "power": ("nvmlDeviceGetPowerUsage=3", ["device_power_watts"], "Not Supported"),
    "no permission": (
        "nvmlDeviceGetPcieThroughput=4",
        ["device_pcie_tx_bytes_per_second", "device_pcie_rx_bytes_per_second"],
        "Insufficient Permissions",
    ),
    "old driver": (
        "nvmlDeviceGetMemoryInfo_v2=13,nvmlDeviceGetTemperatureV=13,"
        "nvmlDeviceGetCurrentClocksEventReasons=13",
        ["device_memory_reserved_bytes"],
        "used contains the reserved",
    ),
    "several": (
        "nvmlDeviceGetTotalEccErrors=3,nvmlDeviceGetUtilizationRates=999",
        ["device_ecc_corrected", "device_ecc_uncorrected", *DEVICE_FIELDS[4:6]],
        "Unknown Error",
    ),
}
# name: (NVML_ERRORS, part of the warning)
LIBRARY = {
    "driver not loaded": ("nvmlInit=9", "Driver Not Loaded"),
    "version mismatch": ("nvmlInit=18", "version mismatch"),
    "no permission": ("nvmlInit=4", "Insufficient Permissions"),
    "no count": ("nvmlDeviceGetCount=999", "Unknown Error"),
    "no handle": ("nvmlDeviceGetHandleByIndex=15@5-5", "GPU is lost"),
}


def ask(cases: list[dict], **variables: str) -> list[dict]:
    child = subprocess.run(
        [sys.executable, PROBE],
        input=json.dumps(cases),
        env=environment(NVML_DEVICES="4", **variables),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.fixture(scope="module")
def answers() -> dict:
    """Ask all questions in one process: torch's import is the dear part."""
    cases = {
        (name, rank): {"wanted": wanted, "env": {**env, "LOCAL_RANK": str(rank)}}
        for name, (wanted, env, expected) in CHOICES.items()
        for rank in range(len(expected))
    }
    watched = {"CUDA_VISIBLE_DEVICES": "2"}
    for name, (errors, _, _) in FAULTS.items():
        cases["fault", name] = {"env": {**watched, "NVML_ERRORS": errors}, "reads": 3}
    for name, (errors, _) in LIBRARY.items():
        cases["library", name] = {"env": {**watched, "NVML_ERRORS": errors}}
    cases["unknown"] = {"wanted": "GPU-ffff"}
    cases["whole"] = {"env": watched, "reads": 2}
    once = {**watched, "NVML_ERRORS": "nvmlDeviceGetClockInfo=999@1-1"}
    cases["once"] = {"env": once, "reads": 3}
    lost = {**watched, "NVML_ERRORS": "nvmlDeviceGetPowerUsage=15@3-9"}
    cases["lost"] = {"env": lost, "reads": 5}
    return dict(zip(cases, ask(list(cases.values())), strict=True))


@pytest.mark.parametrize(
    ("name", "rank"), [(n, r) for n, case in CHOICES.items() for r in range(len(case[2]))]
)
def test_each_rank_watches_its_own_gpu(answers, name, rank):
    answer, expected = answers[name, rank], CHOICES[name][2][rank]
    assert answer["uuid"] == expected
    if expected is None:
        assert all(value is None for value in answer["records"][0].values())
    else:
        assert answer["index"] == next(i for i, c in enumerate(A) if c == answer["card"])


def test_the_figures_are_those_of_the_card_with_their_units(answers):
    first, second = answers["whole"]["records"]
    energy = first["device_energy_joules"]
    assert 0 < second["device_energy_joules"] - energy < 102 * 5
    assert first | {"device_energy_joules": None} == {
        "device_memory_used_bytes": 3 * GIB,
        "device_memory_reserved_bytes": GIB // 2,
        "device_memory_free_bytes": 80 * GIB - 3 * GIB - GIB // 2,
        "device_memory_total_bytes": 80 * GIB,
        "device_utilization_percent": 52,
        "device_memory_utilization_percent": 22,
        "device_temperature_celsius": 42,
        "device_power_watts": 102.0,
        "device_power_limit_watts": 700.0,
        "device_energy_joules": None,
        "device_sm_clock_mhz": 1502,
        "device_memory_clock_mhz": 2602,
        "device_throttle_reasons": ["gpu_idle"],
        "device_pcie_tx_bytes_per_second": 1_000_000,
        "device_pcie_rx_bytes_per_second": 2_000_000,
        "device_ecc_corrected": 7,
        "device_ecc_uncorrected": 0,
    }
    assert set(first) == set(DEVICE_FIELDS)
    assert len(answers["whole"]["warnings"]) == 1  # trains on the CPU, beside a GPU
    assert "assigns GPU 2" in answers["whole"]["warnings"][0]


def test_a_mig_instance_has_its_own_memory_and_the_cards_power(answers):
    answer = answers["a MIG instance", 0]
    record = answer["records"][0]
    assert answer["card"] == A[1]
    assert answer["name"] == "Stand-in 1 (MIG)"
    assert record["device_memory_total_bytes"] == 10 * GIB
    assert record["device_memory_used_bytes"] == GIB // 4
    assert record["device_power_watts"] == 101.0
    assert record["device_utilization_percent"] is None
    assert len([text for text in answer["warnings"] if "null" in text]) == 1


@pytest.mark.parametrize("name", FAULTS)
def test_what_a_gpu_does_not_give_is_null_with_one_warning(answers, name):
    _, missing, reason = FAULTS[name]
    answer = answers["fault", name]
    for record in answer["records"]:
        assert [field for field in DEVICE_FIELDS if record[field] is None] == sorted(
            missing, key=DEVICE_FIELDS.index
        )
    warnings = [text for text in answer["warnings"] if "null" in text]
    assert len(warnings) == 1
    assert reason in warnings[0]
    assert all(field.removeprefix("device_") in warnings[0] for field in missing)


def test_an_old_driver_is_read_by_its_old_calls(answers):
    record = answers["fault", "old driver"]["records"][1]
    assert record["device_memory_used_bytes"] == 3 * GIB + GIB // 2
    assert record["device_temperature_celsius"] == 42
    assert record["device_throttle_reasons"] == ["sw_power_cap"]


@pytest.mark.parametrize("name", LIBRARY)
def test_a_library_that_does_not_work_is_the_null_device_and_one_warning(answers, name):
    answer = answers["library", name]
    assert answer["uuid"] is None
    [warning] = answer["warnings"]
    assert "null" in warning
    assert LIBRARY[name][1] in warning


def test_a_gpu_that_nvml_does_not_list_is_a_users_error(answers):
    assert answers["unknown"]["error"].startswith(
        "--telemetry-device GPU-ffff: NVML lists 0 GPU-a0"
    )


def test_a_field_that_fails_is_asked_again(answers):
    clocks = [record["device_sm_clock_mhz"] for record in answers["once"]["records"]]
    assert clocks == [None, 1502, 1502]


def test_a_gpu_that_is_lost_later_is_one_warning(answers):
    powers = [record["device_power_watts"] for record in answers["lost"]["records"]]
    assert powers == [102.0, 102.0, None, None, None]
    warnings = [text for text in answers["lost"]["warnings"] if "null" in text]
    assert len(warnings) == 1
    assert "GPU is lost" in warnings[0]


def test_no_library_is_one_warning_a_node(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").touch()  # hides a real one
    assigned = {"CUDA_VISIBLE_DEVICES": "0,1"}
    cases = [{"env": {**assigned, "LOCAL_RANK": rank}, "reads": 2} for rank in "01"]
    answers = ask(cases, LD_LIBRARY_PATH=str(tmp_path))
    for answer, warnings in zip(answers, (1, 0), strict=True):
        assert answer["uuid"] is None
        assert all(value is None for record in answer["records"] for value in record.values())
        assert len(answer["warnings"]) == warnings
