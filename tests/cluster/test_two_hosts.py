"""torchrun over two hosts whose processes, launchers and cable fail."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.cluster.parts import wait_until
from tests.cluster.training import TOTAL

pytestmark = pytest.mark.cluster

PATIENCE = 20
"""Seconds a rank waits for the other one, in these tests."""


class Torchrun:
    """One launcher on each of two hosts."""

    def __init__(self, hosts, checkout):
        self.hosts, self.checkout, self.port = hosts, checkout, 29500
        self.launchers, self.logs = [], []

    def start(self, name, *flags, launcher=None):
        self.port += 1
        self.name = name
        self.logs = [self.checkout.path / f"{name}-{self.port}-{h.name}.log" for h in self.hosts]
        self.launchers = []
        for rank, (host, log) in enumerate(zip(self.hosts, self.logs, strict=True)):
            meeting = launcher or (f"--node-rank={rank}", "--nnodes=2", *self.meeting_point())
            process = host.start(
                *(sys.executable, "-m", "torch.distributed.run", *meeting, "--nproc-per-node=1"),
                *("launch/train.py", *self.checkout.flags(name, "--resume", "auto", *flags)),
                *("--collective-timeout", str(PATIENCE)),
                log=log,
                cwd=self.checkout.path,
                **self.checkout.environment,
                PET_SIGNALS_TO_HANDLE="SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR2",
                # Else torch (2.14) keeps the store of the round before, with its dead addresses.
                TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1,
                TORCH_ELASTIC_SHUTDOWN_TIMEOUT=15,
            )
            self.launchers.append(process)

    def meeting_point(self):
        return (f"--master-addr={self.hosts[0].name}", f"--master-port={self.port}")

    def wait_for_step(self, step):
        self.checkout.run_of(self.name).wait_for_step(step, explain=self.explain)

    def wait(self, seconds):
        """Wait for both launchers and return their exit codes."""
        end = time.monotonic() + seconds
        codes = []
        for process in self.launchers:
            try:
                codes.append(process.wait(max(0.1, end - time.monotonic())))
            except subprocess.TimeoutExpired:
                pytest.fail(f"still running after {seconds} s\n{self.explain()}")
        return codes

    def ranks(self):
        """The process of each rank, by host."""
        return [
            next(c for c in psutil.Process(p.pid).children() if "launch/train.py" in c.cmdline())
            for p in self.launchers
        ]

    def explain(self):
        return "\n".join(f"== {log.name}\n{log.read_text()[-4000:]}" for log in self.logs)

    def end(self):
        for process in self.launchers:
            members = []
            if process.poll() is None:
                members = psutil.Process(process.pid).children(recursive=True)
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for member in members:
                if member.is_running():
                    member.kill()

    def check_resumes(self, undisturbed):
        """Start again: the run goes on from a checkpoint and ends as the undisturbed one."""
        self.start(self.name, "--expect-world-size", "2")
        assert self.wait(180) == [0, 0], self.explain()
        assert "resuming" in self.logs[0].read_text()
        check_done(self.checkout.run_of(self.name), undisturbed)


def check_done(result, undisturbed):
    assert result.status["state"] == "done"
    assert result.status["step"] == TOTAL
    assert result.curve("val") == pytest.approx(undisturbed.curve("val"), rel=2e-4)


@pytest.fixture
def torchrun(hosts, checkout):
    made = Torchrun(hosts, checkout)
    yield made
    made.end()


def test_a_cable_out_for_some_seconds_does_no_harm(torchrun, one_process):
    torchrun.start("blink", "--expect-world-size", "2")
    torchrun.wait_for_step(12)
    torchrun.hosts[1].link("down")
    time.sleep(5)
    assert [p.poll() for p in torchrun.launchers] == [None, None], torchrun.explain()
    torchrun.hosts[1].link("up")
    assert torchrun.wait(180) == [0, 0], torchrun.explain()
    result = torchrun.checkout.run_of("blink")
    assert result.status["world_size"] == 2
    check_done(result, one_process)


def test_a_cable_out_for_good_ends_both_sides_and_a_restart_resumes(torchrun, one_process):
    torchrun.start("cut", "--expect-world-size", "2", "--checkpoint-every", "10")
    torchrun.wait_for_step(16)
    torchrun.hosts[1].link("down")
    codes = torchrun.wait(3 * PATIENCE)
    assert 0 not in codes
    for log in torchrun.logs:
        assert "waited for the other ranks in vain" in log.read_text(), torchrun.explain()
    status = torchrun.checkout.run_of("cut").status
    assert status["state"] == "failed"
    torchrun.hosts[1].link("up")
    torchrun.check_resumes(one_process)


def test_a_killed_rank_ends_both_sides_and_a_restart_resumes(torchrun, one_process):
    torchrun.start("rank", "--expect-world-size", "2", "--checkpoint-every", "10")
    torchrun.wait_for_step(16)
    torchrun.ranks()[1].kill()
    assert 0 not in torchrun.wait(3 * PATIENCE)
    assert torchrun.checkout.run_of("rank").status["state"] == "failed"
    torchrun.check_resumes(one_process)


@pytest.mark.parametrize("host", [0, 1])
def test_ranks_of_a_killed_launcher_save_and_leave(torchrun, one_process, host):
    name = f"launcher{host}"
    torchrun.start(name, "--expect-world-size", "2")
    torchrun.wait_for_step(12)
    ranks = torchrun.ranks()
    torchrun.launchers[host].kill()
    psutil.wait_procs(ranks, timeout=3 * PATIENCE)
    assert not any(rank.is_running() for rank in ranks), torchrun.explain()
    torchrun.wait(3 * PATIENCE)
    result = torchrun.checkout.run_of(name)
    assert (result.status["state"], result.status["exit_code"]) == ("stopped", 75)
    if host == 1:  # once is enough: it takes as long as all the rest
        torchrun.check_resumes(one_process)


def test_elastic_run_goes_on_after_a_lost_rank_and_with_the_host_that_is_left(
    torchrun, one_process
):
    patience = "join_timeout=60,last_call_timeout=3,keep_alive_interval=1,keep_alive_max_attempt=3"
    torchrun.port += 1
    torchrun.start(
        *("elastic", "--checkpoint-every", "8"),
        launcher=(
            *("--nnodes=1:2", "--max-restarts=3", "--rdzv-backend=c10d", "--rdzv-id=elastic"),
            f"--rdzv-endpoint={torchrun.hosts[0].name}:{torchrun.port}",
            *(f"--rdzv-conf={patience}", "--monitor-interval=0.2"),
        ),
    )
    torchrun.wait_for_step(16)
    result = torchrun.checkout.run_of("elastic")
    assert result.status["world_size"] == 2
    torchrun.ranks()[1].kill()  # a worker: both hosts start theirs again
    lost_at = result.lines[-1]["step"]
    wait_until(
        lambda: "resuming" in torchrun.logs[0].read_text(),
        "a restart that resumes",
        timeout=120,
        explain=torchrun.explain,
    )
    torchrun.wait_for_step(lost_at + 40)
    for process in (torchrun.ranks()[1], torchrun.launchers[1]):  # a host, with all it runs
        process.kill()
    assert torchrun.launchers[0].wait(180) == 0, torchrun.explain()
    assert result.status["world_size"] == 1
    check_done(result, one_process)
