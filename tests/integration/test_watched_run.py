"""Training under a stand-in of four GPUs, and the monitor on what it writes."""

import fcntl
import json
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

from tests.nvml.build import environment

GIB = 2**30
A = [f"GPU-a{i}000000-0000-4000-8000-{i:012x}" for i in range(4)]
TRAIN = ("--model-type", "fc_conv", "--batch-size", "64", "--telemetry-interval", "0.1")
TRAIN += ("--tensorboard", "False", "--no-cuda", "--epochs", "2")


def vae_dist(*words, cwd, check=0, timeout=280, prefix=(), **variables):
    command = [*(prefix or (sys.executable, "-m", "launch.cli")), *map(str, words)]
    child = subprocess.run(
        command,
        cwd=cwd,
        env=environment(NVML_DEVICES="4", **variables),
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert child.returncode == check, child.stdout + child.stderr
    return child


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("watched")
    vae_dist("prepare", "--dataset", "digits", "--out", "digits", cwd=folder)
    return folder


@pytest.fixture(scope="module")
def two_ranks(place):
    """Two processes on cards 3 and 1 of four; the second rank is slow in its forward pass."""
    launcher = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2")
    script = place / "slow_rank.py"
    script.write_text(
        "import os, sys, time\n"
        "from vae_dist.objective import Objective\n"
        "forward = Objective.forward\n"
        "def slow(self, *inputs):\n"
        "    time.sleep(0.03 if os.environ['RANK'] == '1' and self.training else 0)\n"
        "    return forward(self, *inputs)\n"
        "Objective.forward = slow\n"
        "from launch.train import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    child = vae_dist(
        *("--data", "digits", "--name", "two", *TRAIN),
        cwd=place,
        prefix=(*launcher, "--standalone", script),
        CUDA_VISIBLE_DEVICES="3,GPU-a1",
    )
    return place / "runs" / "two", child.stdout + child.stderr


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_ranks_of_four_gpus_report_the_right_two(two_ranks):
    run, _ = two_ranks
    for rank, card in ((0, 3), (1, 1)):
        records = lines(run / ("telemetry.jsonl" if rank == 0 else "telemetry-rank00001.jsonl"))
        assert len(records) > 2
        assert {record["device_uuid"] for record in records} == {A[card]}
        assert {record["device_memory_used_bytes"] for record in records} == {(card + 1) * GIB}
        assert {record["rank"] for record in records} == {rank}
        assert records[-1]["device_energy_joules"] > 0
    assert not (run / "telemetry-rank00002.jsonl").exists()


def test_the_status_sums_up_and_names_the_straggler(two_ranks):
    run, output = two_ranks
    status = json.loads((run / "status.json").read_text())
    whole = status["telemetry"]
    seconds = whole["ranks"][0]["seconds"]
    assert [rank["device_uuid"] for rank in whole["ranks"]] == [A[3], A[1]]
    assert whole["images"] == 2 * 1149
    assert whole["stragglers"] == [1]
    assert whole["slowest_ratio"] > 1.25
    assert whole["headroom_bytes"] == 76 * GIB - GIB // 2
    assert whole["peak_device_bytes"] == 4 * GIB
    assert whole["mean_utilization_percent"] == 52
    assert whole["energy_joules"] == pytest.approx((103 + 101) * seconds, rel=0.5)
    assert whole["images_per_joule"] == pytest.approx(2298 / whole["energy_joules"])
    assert whole["ranks"][0]["throttled_share"] == {"hw_thermal_slowdown": 1.0}
    assert 0 <= whole["data_wait_share"] < 1
    assert status["memory"]["total_bytes"] > status["memory"]["parameters_bytes"]
    assert "Telemetry by rank" in output
    assert "1 slow" in output
    assert "memory expected" in output
    assert "memory taken by the first step" in output


def test_the_monitor_shows_both_ranks_on_a_pipe(two_ranks, place):
    run, _ = two_ranks
    for words in (["--once", run], [run]):  # a finished run is one frame either way
        shown = vae_dist("monitor", *words, cwd=place).stdout
        assert "\x1b" not in shown
        assert "Stand-in 3" in shown
        assert "Stand-in 1" in shown
        assert "done" in shown
        assert "rank 1: its own time a step is over 1.25 times the median" in shown
        assert "rank 0: its clocks are held down (hw_thermal_slowdown)" in shown
        assert max(map(len, shown.splitlines())) <= 100


def test_faults_of_nvml_do_not_stop_a_run_and_the_monitor_follows_it(place):
    """Power is not supported, utilisation never returns; the live view is on a terminal."""
    words = [sys.executable, "-m", "launch.cli"]
    train = subprocess.Popen(
        [*words, "train", "--data", "digits", "--name", "live", *TRAIN, "--epochs", "9999"],
        cwd=place,
        env=environment(
            NVML_DEVICES="4",
            CUDA_VISIBLE_DEVICES="2",
            NVML_ERRORS="nvmlDeviceGetPowerUsage=3",
            NVML_HANG="nvmlDeviceGetTotalEccErrors",
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    status = place / "runs" / "live" / "status.json"
    try:
        wait_for(lambda: status.exists() and "running" in status.read_text())
        screen = terminal([*words, "monitor", "runs/live", "--refresh", "0.2"], place, seconds=4)
    finally:
        train.send_signal(signal.SIGTERM)
        output, _ = train.communicate(timeout=120)
    assert train.returncode == 75, output
    assert "live" in screen
    assert "running" in screen
    assert "\x1b[" in screen
    assert len(set(re.findall(r"step (\d+) of", screen))) > 1  # it moved
    assert "the GPU driver does not answer" in output
    assert json.loads(status.read_text())["telemetry"]["images_per_second"] > 0


def wait_for(condition, seconds=90.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def terminal(command, cwd, seconds) -> str:
    """What a program draws on a terminal until it is interrupted."""
    process, master = pty.fork()
    if process == 0:
        os.chdir(cwd)
        os.execvpe(command[0], command, environment(TERM="xterm-256color"))
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 110, 0, 0))
    os.set_blocking(master, False)
    drawn, end, interrupted = b"", time.monotonic() + 90, False
    begun = None
    while time.monotonic() < end:
        try:
            piece = os.read(master, 65536)
        except BlockingIOError:
            piece = None
            time.sleep(0.05)
        except OSError:
            break
        if piece == b"":
            break
        drawn += piece or b""
        begun = begun or (time.monotonic() if drawn else None)
        if begun and not interrupted and time.monotonic() > begun + seconds:
            os.kill(process, signal.SIGINT)
            interrupted = True
    _, code = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(code) == 0, drawn.decode(errors="replace")
    return drawn.decode(errors="replace")


# A process whose address space may grow by so much once all is loaded: allocations then fail
# as they do where memory is short. Telemetry's thread needs address space of its own later.
LIMITED = """
import resource, sys
import vae_dist.memory.plan, vae_dist.train.trainer
from vae_dist.memory.plan import Fit
make = Fit.__init__
def limited(self, state):
    import torch
    (torch.ones(64, 64, requires_grad=True) @ torch.ones(64, 64)).sum().backward()
    grown = int(open("/proc/self/statm").read().split()[0]) * 4096 + int(sys.argv[1]) * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (grown, resource.RLIM_INFINITY))
    make(self, state)
    resource.setrlimit(resource.RLIMIT_AS, (grown + 400 * 2**20, resource.RLIM_INFINITY))
Fit.__init__ = limited
from launch.cli import main
sys.exit(main(sys.argv[2:]))
"""
BIG = ("train", "--data", "digits", "--no-cuda", "--tensorboard", "False", "--max-steps", "2")
BIG += ("--batch-size", "1149", "--importance-samples", "48", "--objective", "iwae")


def test_out_of_memory_is_one_screen_a_snapshot_and_exit_1(place):
    assert resource.getrlimit(resource.RLIMIT_AS)[1] == resource.RLIM_INFINITY
    child = vae_dist(
        *("110", *BIG, "--model-type", "fc", "--name", "oom"),
        cwd=place,
        check=1,
        prefix=(sys.executable, "-c", LIMITED),
    )
    assert "Traceback" not in child.stderr
    report = child.stderr[child.stderr.index("out of memory on rank 0 (cpu)") :]
    assert len(report.splitlines()) < 24
    assert "--accumulate 2: micro-batches of 575 instead of 1149" in report
    assert "--find-batch-size True" in report
    assert "importance-samples than 48" in report
    run = place / "runs" / "oom"
    snapshot = json.loads((run / "oom-rank00000.json").read_text())
    assert snapshot["wanted_bytes"] > 2**20
    assert snapshot["process_rss_bytes"] > 2**20
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["exit_code"]) == ("failed", 1)


def test_find_batch_size_fits_the_same_run_into_the_same_memory(place):
    child = vae_dist(
        *("110", *BIG, "--model-type", "fc", "--name", "found", "--find-batch-size"),
        cwd=place,
        prefix=(sys.executable, "-c", LIMITED),
    )
    match = re.search(r"--find-batch-size: (\d+) images fit at once", child.stdout)
    assert 8 <= int(match[1]) < 1149
    run = place / "runs" / "found"
    config = json.loads((run / "config.json").read_text())
    assert config["run"]["batch_size"] == 1149
    assert config["run"]["accumulate"] == 1  # what was found is no setting of the training
    memory = json.loads((run / "status.json").read_text())["memory"]
    assert memory["accumulate"] == -(-1149 // int(match[1]))
    assert memory["micro_batch"] <= int(match[1])
