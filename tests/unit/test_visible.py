"""CUDA's numbering against NVML's, with a CUDA that reports UUIDs."""

import types

import pytest
import torch

from vae_dist.telemetry.choose import _own
from vae_dist.telemetry.visible import Card, Instance, find_uuid, local_rank, visible

CARDS = [
    Card(0, "GPU-aa11", "slow"),
    Card(1, "GPU-aa22", "fast"),
    Card(2, "GPU-bb33", "cut", True, (Instance("MIG-cc1", 0, 3, 0), Instance("MIG-cc2", 1, 4, 0))),
]


def uuids(variable: str | None) -> list[str]:
    return [choice.uuid for choice in visible(variable, CARDS)]


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        (None, ["GPU-aa11", "GPU-aa22", "MIG-cc1"]),
        ("", []),
        ("NoDevFiles", []),
        ("1, 0", ["GPU-aa22", "GPU-aa11"]),
        ("gpu-AA2,GPU-aa1", ["GPU-aa22", "GPU-aa11"]),
        ("MIG-cc2,0", ["MIG-cc2", "GPU-aa11"]),
        ("MIG-GPU-bb/4/0", ["MIG-cc2"]),
        ("MIG-GPU-bb/4/1", []),
        ("GPU-,0", []),
        ("0,9,1", ["GPU-aa11"]),
        ("0,GPU-aa11", []),
    ],
)
def test_visible_devices_are_cudas(variable, expected):
    assert uuids(variable) == expected


def own(monkeypatch, number: int, uuid: str, variable: str | None) -> str | None:
    """What a rank on cuda:number watches, where CUDA gives that device this UUID."""
    properties = types.SimpleNamespace(uuid=uuid)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    choice = _own(torch.device("cuda", number), 7, variable, CARDS)
    return choice.uuid if choice else None


def test_cudas_uuid_wins_over_cudas_order(monkeypatch):
    # CUDA numbers the fastest card first; NVML, and so our reading of "0,1", goes by the bus
    assert own(monkeypatch, 0, "aa22", None) == "GPU-aa22"
    assert own(monkeypatch, 1, "aa11", "0,1") == "GPU-aa11"


def test_a_mig_instance_is_taken_from_the_variable(monkeypatch):
    assert own(monkeypatch, 0, "bb33", "MIG-cc2") == "MIG-cc2"
    assert own(monkeypatch, 0, "cc2", None) == "MIG-cc2"


def test_a_uuid_that_nvml_does_not_list_falls_back_on_the_variable(monkeypatch):
    assert own(monkeypatch, 1, "0000", "1,0") == "GPU-aa11"
    assert own(monkeypatch, 2, "0000", "1,0") is None


def test_uuids_with_and_without_prefix():
    for uuid in ("GPU-AA22", "aa22"):
        assert find_uuid(uuid, CARDS).card is CARDS[1]
    assert find_uuid("aa2", CARDS) is None


def test_local_rank_is_torchruns_then_sruns():
    assert local_rank({"LOCAL_RANK": "2", "SLURM_LOCALID": "0"}) == 2
    assert local_rank({"SLURM_LOCALID": "1"}) == 1
    assert local_rank({"LOCAL_RANK": "x"}) == 0
