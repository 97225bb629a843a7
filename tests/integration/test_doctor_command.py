"""doctor on this machine, and on one whose NVML is the stand-in."""

import json
import os
import socket
import subprocess
import sys

import pytest

from tests.nvml.build import environment

A = [f"GPU-a{i}000000-0000-4000-8000-{i:012x}" for i in range(4)]


def doctor(*words, cwd, **variables):
    child = subprocess.run(
        [sys.executable, "-m", "launch.cli", "doctor", *words],
        cwd=cwd,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert "Traceback" not in child.stderr
    return child


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Four cards, the second cut in two; the list names one that is not there; a port is taken."""
    with socket.create_server(("", 0)) as server:
        child = doctor(
            *("--json", "--quick"),
            cwd=tmp_path_factory.mktemp("many"),
            NVML_DEVICES="4",
            NVML_MIG="1:2",
            NVML_ERRORS="nvmlDeviceGetTotalEccErrors=3",
            CUDA_VISIBLE_DEVICES="2,MIG-b110,7,0",
            MASTER_PORT=str(server.getsockname()[1]),
            GLOO_SOCKET_IFNAME="nosuch0",
        )
    return child


def by_name(child):
    answer = json.loads(child.stdout)
    assert answer["schema"] == 1
    return {finding["name"]: finding for finding in answer["findings"]}, answer


def test_json_is_one_object_and_nothing_else(many):
    found, answer = by_name(many)
    assert {"torch", "memory", "shared memory", "driver", "host name", "slurm", "cuda"} <= set(
        found
    )
    assert {"device", "process_group", "evaluation", "data"} <= set(answer["use"])
    assert answer["use"]["gpu_figures"] == "nvml"


def test_every_card_and_instance_is_shown_with_its_state(many):
    found, _ = by_name(many)
    assert "999.42, for CUDA up to 13.1" in found["driver"]["value"]
    for number in range(4):
        text = found[f"gpu {number}"]["value"]
        assert A[number] in text
        assert f"{number + 1}.0 GiB used of 80.0 GiB" in text
        assert "does not give ecc_corrected" in text
    assert "MIG-b110" in found["gpu 1 mig 1"]["value"]
    assert found["gpu 3"]["status"] == "warning"  # it is hot
    assert "hw_thermal_slowdown" in found["gpu 3"]["value"]


def test_what_is_wrong_is_named_with_its_fix_and_fails(many):
    found, answer = by_name(many)
    assert many.returncode == 1
    wrong = "\n".join(answer["wrong"])
    assert f"means 2 {A[2]}, 1 MIG-b110" in found["CUDA_VISIBLE_DEVICES"]["value"]
    assert "first entry that names no GPU" in wrong
    assert "GLOO_SOCKET_IFNAME: nosuch0: no such interface" in wrong
    assert "--main_process_port 0" in wrong


def test_a_machine_without_a_gpu_is_well(tmp_path):
    (tmp_path / "libnvidia-ml.so.1").touch()  # hides a real one
    child = doctor(cwd=tmp_path, LD_LIBRARY_PATH=str(tmp_path), CUDA_VISIBLE_DEVICES="")
    assert child.returncode == 0, child.stdout
    for part in ("two processes: meet and reduce over gloo", "will be used", "process group  gloo"):
        assert part in child.stdout
    assert "NVML Shared Library Not Found" in child.stdout
    assert "\x1b" not in child.stdout
    assert not list(p for p in os.listdir(tmp_path) if p != "libnvidia-ml.so.1")
