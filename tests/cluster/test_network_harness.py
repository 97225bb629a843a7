"""The two test hosts themselves: torchrun rendezvous over the cable, and the cable pulled."""

import sys

import pytest

pytestmark = pytest.mark.cluster

ADD_RANKS = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
print(os.uname().nodename, dist.get_rank(), dist.get_world_size(), total.item(), flush=True)
dist.destroy_process_group()
"""


def test_two_hosts_reach_each_other_by_name_until_the_cable_is_pulled(hosts, tmp_path):
    script = tmp_path / "add.py"
    script.write_text(ADD_RANKS)
    logs = [tmp_path / host.name for host in hosts]
    started = [
        host.start(
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}"),
            *(f"--master-addr={hosts[0].name}", "--master-port=29411", script),
            log=log,
            OMP_NUM_THREADS=1,
        )
        for rank, (host, log) in enumerate(zip(hosts, logs, strict=True))
    ]
    for process, log in zip(started, logs, strict=True):
        assert process.wait(240) == 0, log.read_text()
    for rank, (host, log) in enumerate(zip(hosts, logs, strict=True)):
        assert f"{host.name} {rank} 2 3.0" in log.read_text()

    assert probe(hosts, tmp_path / "up") == "ConnectionRefusedError\n"
    hosts[1].link("down")
    assert probe(hosts, tmp_path / "down") in ("TimeoutError\n", "OSError\n")


def probe(hosts, log):
    """The name of the error that the first host gets from a closed port of the second."""
    code = (
        "import socket, sys\n"
        "try:\n    socket.create_connection((sys.argv[1], 9), timeout=2)\n"
        "except OSError as error:\n    print(type(error).__name__)"
    )
    assert hosts[0].start(sys.executable, "-c", code, hosts[1].name, log=log).wait(60) == 0
    return log.read_text()
