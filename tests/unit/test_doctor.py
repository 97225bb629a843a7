"""How doctor runs its checks and what it concludes."""

import threading

import pytest

from launch.doctor.checks import check_host_name, interface_fault
from launch.doctor.command import conclude, faults, main, run_check
from launch.doctor.findings import Finding


def test_a_check_that_fails_is_a_finding():
    def check():
        yield Finding("first", "ok", "fine")
        raise OSError("no such thing")

    [first, finding] = run_check("broken", check, 5)
    assert first.status == "ok"  # what came before the fault stays
    assert finding.status == "warning"
    assert "no such thing" in finding.value


def test_a_check_that_hangs_is_an_error_and_the_rest_goes_on():
    forever = threading.Event()

    def check():
        forever.wait()
        yield Finding("never", "ok", "")

    [finding] = run_check("stuck", check, 0.1)
    assert finding.status == "error"
    assert "no answer" in finding.value
    forever.set()


def test_what_will_be_used_follows_from_what_computes():
    gpus = [Finding(f"cuda:{n}", "ok", "computes: H100, 79 GiB, bf16") for n in range(2)]
    use = conclude([*gpus, Finding("cuml", "ok", "computes on H100"), Finding("gpu 0", "ok", "")])
    assert (use["device"], use["process_group"], use["precision"]) == ("2 GPU(s)", "nccl", "bf16")
    assert (use["evaluation"], use["gpu_figures"]) == ("cuml", "nvml")
    assert "--nproc-per-node 2" in use["command"]
    old = Finding("cuda:0", "ok", "computes: V100, 32 GiB, no fast bf16")
    assert conclude([old])["precision"] == "no"
    broken = [Finding("cuda:0", "error", "does not compute: no kernel image")]
    assert conclude([*broken, Finding("cuml", "note", "not installed")])["device"] == "cpu"


def test_errors_come_before_warnings_each_with_its_fix():
    found = [
        Finding("disk", "warning", "0 B free", "make room"),
        Finding("cuda", "error", "1 GPU(s) that torch cannot use"),
        Finding("torch", "ok", "2.14"),
    ]
    assert faults(found) == ["cuda: 1 GPU(s) that torch cannot use", "disk: 0 B free -> make room"]


def test_a_wrong_flag_is_a_users_error():
    with pytest.raises(ValueError, match="--fast"):
        main(["--fast"])


UP = {"lo": True, "eth0": True, "ib0": False, "docker0": True}


@pytest.mark.parametrize(
    ("variable", "wanted", "fault"),
    [
        ("GLOO_SOCKET_IFNAME", "eth0", ""),
        ("GLOO_SOCKET_IFNAME", "^docker0", "gloo takes names alone"),
        ("GLOO_SOCKET_IFNAME", "=eth0", "gloo takes names alone"),
        ("GLOO_SOCKET_IFNAME", "eth", "no such interface"),
        ("GLOO_SOCKET_IFNAME", "eth0,eth9", "no such interface"),
        ("GLOO_SOCKET_IFNAME", "ib0", "is down"),
        ("NCCL_SOCKET_IFNAME", "eth", ""),
        ("NCCL_SOCKET_IFNAME", "=eth0", ""),
        ("NCCL_SOCKET_IFNAME", "=eth", "no such interface"),
        ("NCCL_SOCKET_IFNAME", "^docker,lo", ""),
        ("NCCL_SOCKET_IFNAME", "^docker,lo,eth,ib", "no such interface"),
        ("NCCL_SOCKET_IFNAME", "ib", "is down"),
        ("NCCL_SOCKET_IFNAME", "enp", "no such interface"),
    ],
)
def test_interfaces_are_read_as_the_library_reads_them(variable, wanted, fault):
    found = interface_fault(variable, wanted, UP)
    assert found.startswith(fault)
    assert bool(found) == bool(fault)


@pytest.mark.parametrize(
    ("addresses", "status"),
    [(["127.0.1.1"], "warning"), (["::1"], "warning"), (["10.0.0.3"], "ok"), ([], "warning")],
)
def test_a_host_name_that_only_this_machine_understands_is_not_approved(
    addresses, status, monkeypatch
):
    def lookup(name, port):
        if not addresses:
            raise OSError("Name or service not known")
        return [(0, 0, 0, "", (address, 0)) for address in addresses]

    monkeypatch.setattr("socket.getaddrinfo", lookup)
    found = check_host_name("node7")
    assert found.status == status
    assert bool(found.fix) == (status == "warning")
