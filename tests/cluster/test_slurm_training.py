"""slurm/train.sbatch on two nodes: undisturbed, and disturbed in each way that Slurm knows."""

import sys
import time

import pytest

from tests.cluster.parts import wait_until
from tests.cluster.training import TOTAL

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def undisturbed(jobs):
    job = jobs.submit("undisturbed")
    assert jobs.wait(job) == "COMPLETED", jobs.explain()
    return jobs.checkout.run_of("undisturbed")


def test_two_nodes_walk_the_path_of_one_process(undisturbed, one_process):
    assert undisturbed.status["world_size"] == 2
    for split in ("train", "val"):
        mine, theirs = undisturbed.curve(split), one_process.curve(split)
        assert mine.keys() == theirs.keys()
        assert len(mine) >= 3
        for step, loss in mine.items():
            assert loss == pytest.approx(theirs[step], rel=2e-4), f"{split} step {step}"


@pytest.mark.parametrize("nodes", [1, 2])
def test_plain_srun_trains_one_run_on_all_its_tasks(jobs, one_process, nodes):
    """No launcher, no sbatch script: srun's own variables say which process of how many."""
    name = f"by-srun-{nodes}"
    said = jobs.slurm.command(
        *("srun", f"--nodes={nodes}", "--ntasks=2", sys.executable, "-m", "launch.cli", "train"),
        *jobs.checkout.flags(name, "--expect-world-size", "2"),
        cwd=jobs.checkout.path,
        environment=jobs.checkout.environment,
        timeout=240,
    )
    result = jobs.checkout.run_of(name)
    assert result.status["state"] == "done", said
    assert result.status["world_size"] == 2
    mine, theirs = result.curve("val"), one_process.curve("val")
    assert mine.keys() == theirs.keys()
    assert all(loss == pytest.approx(theirs[step], rel=2e-4) for step, loss in mine.items())


def test_requeued_by_hand(jobs, undisturbed):
    job = jobs.submit("requeued")
    jobs.wait_for_step("requeued", 12)
    jobs.slurm.command("scontrol", "requeue", job)
    jobs.wait_for_requeue(job)
    assert 12 <= jobs.checkout.run_of("requeued").status["step"] < TOTAL
    jobs.check_resumed("requeued", job, undisturbed)
    assert "requeue 1 of" not in jobs.log("requeued", job)


@pytest.mark.parametrize("partition", ["debug", "grace"])
def test_preempted_by_a_higher_partition(jobs, undisturbed, tmp_path, partition):
    # At once, by TERM and Slurm's own requeue; or by USR2 with a time of grace.
    name = f"preempted-{partition}"
    job = jobs.submit(name, options=("--nodes=2", f"--partition={partition}"))
    jobs.wait_for_step(name, 12)
    urgent = jobs.slurm.submit(
        *("--partition=high", "--nodes=2", "--exclusive", f"--output={tmp_path}/urgent"),
        *("--wrap", "srun --ntasks-per-node=1 sleep 1"),
    )
    jobs.wait_for_requeue(job)
    assert jobs.wait(urgent) == "COMPLETED"
    jobs.check_resumed(name, job, undisturbed)
    assert jobs.slurm.job(job)["Restarts"] == "1"
    assert ("preempted: requeue" in jobs.log(name, job)) == (partition == "grace")
    assert "requeue 1 of" not in jobs.log(name, job)


def test_signalled_by_scancel(jobs, undisturbed):
    job = jobs.submit("signalled")
    jobs.wait_for_step("signalled", 12)
    jobs.slurm.command("scancel", "--signal=USR2", job)
    jobs.wait_for_requeue(job)
    assert jobs.checkout.run_of("signalled").status["state"] == "stopped"
    jobs.check_resumed("signalled", job, undisturbed)
    assert "requeue 1 of 20" in jobs.log("signalled", job)


def test_time_limit_is_announced_and_requeues(jobs, undisturbed):
    submitted = time.monotonic()
    job = jobs.submit("limited", options=("--nodes=2", "--time=10", "--signal=B:USR2@150"))
    jobs.wait_for_step("limited", 12)
    # Time stands still for the ranks until Slurm, which looks twice a minute, sees the limit.
    jobs.slurm.command("scancel", "--signal=STOP", job)
    minutes = int(time.monotonic() - submitted) // 60 + 2  # ends in 60 to 120 s: USR2 is due
    jobs.slurm.command("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    wait_until(
        lambda: "USR2: near the time limit" in jobs.log("limited", job),
        "USR2 at the batch shell",
        timeout=110,
        explain=jobs.explain,
    )
    jobs.slurm.command("scancel", "--signal=CONT", job)
    jobs.wait_for_requeue(job)
    jobs.slurm.command("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    jobs.check_resumed("limited", job, undisturbed)
    assert "requeue 1 of 20" in jobs.log("limited", job)
