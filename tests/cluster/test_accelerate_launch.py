"""`accelerate launch` with the shipped configurations, on CPU processes."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster


class Launches:
    """Starts `accelerate launch` in the checkout and ends what a test leaves."""

    def __init__(self, checkout):
        self.checkout, self.started = checkout, []

    def start(self, config, *launcher, flags):
        log = self.checkout.path / f"launch-{len(self.started)}-{os.getpid()}.log"
        command = ["accelerate", "launch", "--config_file", f"launch/accelerate/{config}.yaml"]
        process = subprocess.Popen(
            [*command, *launcher, "launch/train.py", *flags],
            cwd=self.checkout.path,
            env=self.checkout.environment,
            stdout=log.open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.started.append(process)
        return process, log

    def end(self):
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


@pytest.fixture
def launches(checkout):
    made = Launches(checkout)
    yield made
    made.end()


def check(result, one_process, world_size):
    assert result.status["state"] == "done"
    assert result.status["world_size"] == world_size
    mine, theirs = result.curve("val"), one_process.curve("val")
    assert mine == pytest.approx(theirs, rel=2e-4)


def test_two_jobs_at_once_do_not_collide(launches, checkout, one_process):
    flags = ["--expect-world-size", "2"]
    first, first_log = launches.start("cpu", flags=checkout.flags("cpu", *flags))
    second, second_log = launches.start(
        "multi_gpu", "--num_processes", "2", flags=checkout.flags("multi", *flags)
    )
    assert first.wait(240) == 0, first_log.read_text()
    assert second.wait(240) == 0, second_log.read_text()
    check(checkout.run_of("cpu"), one_process, 2)
    check(checkout.run_of("multi"), one_process, 2)
    assert checkout.run_of("cpu").has_same_weights(checkout.run_of("multi"))


def test_single_gpu_configuration_is_one_process(launches, checkout, one_process):
    flags = checkout.flags("single", "--expect-world-size", "1")
    process, log = launches.start("single_gpu", flags=flags)
    assert process.wait(240) == 0, log.read_text()
    check(checkout.run_of("single"), one_process, 1)
    assert checkout.run_of("single").has_same_weights(one_process)


def test_a_launcher_that_starts_fewer_processes_is_found_out(launches, checkout, tmp_path):
    # What a configuration with MULTI_CPU does: one process, in silence.
    config = Path(checkout.path / "launch" / "accelerate" / "multi_cpu.yaml")
    config.write_text("distributed_type: MULTI_CPU\nnum_processes: 2\nuse_cpu: true\n")
    flags = checkout.flags("fewer", "--expect-world-size", "2")
    process, log = launches.start("multi_cpu", flags=flags)
    assert process.wait(120) != 0
    assert "--expect-world-size 2: there are 1 processes" in log.read_text()
