"""slurm/train.sbatch on two nodes: undisturbed, and disturbed in each way that Slurm knows."""

import pytest

from tests.cluster.parts import wait_until

pytestmark = pytest.mark.cluster

TOTAL = 3 * 144


class Jobs:
    """Submits training jobs and reads what they leave."""

    def __init__(self, slurm, checkout):
        self.slurm, self.checkout = slurm, checkout

    def submit(self, name, *flags, options=(), resources=("--nodes=2",)):
        command = ("sbatch", "--parsable", f"--job-name={name}", *resources, *options)
        return self.slurm.command(
            *command,
            "slurm/train.sbatch",
            *self.checkout.flags(name, *flags),
            cwd=self.checkout.path,
            environment=self.checkout.environment,
        ).strip()

    def explain(self):
        logs = [*self.checkout.path.glob("*.log"), *self.checkout.path.glob("slurm-logs/*.log")]
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(logs))

    def wait_for_step(self, name, step):
        self.checkout.run_of(name).wait_for_step(step, explain=self.explain)

    def log(self, name, job):
        return (self.checkout.path / f"{name}-{job}.log").read_text()

    def wait(self, job, *states, timeout=240):
        return self.slurm.wait(job, *states, timeout=timeout)

    def wait_for_requeue(self, job):
        wait_until(
            lambda: self.slurm.state(job) == "PENDING",
            f"requeue of {job}",
            timeout=90,
            explain=self.explain,
        )

    def check_resumed(self, name, job, undisturbed):
        """The run went on from where it was stopped and ended as the undisturbed one."""
        assert self.wait(job) == "COMPLETED", self.explain()
        result = self.checkout.run_of(name)
        node_log = next((self.checkout.path / "slurm-logs").glob(f"{name}-{job}-0-*.log"))
        assert "resuming" in node_log.read_text(), self.explain()
        assert result.status["state"] == "done"
        assert result.status["step"] == TOTAL
        assert result.has_same_weights(undisturbed)
        assert result.curve("val") == undisturbed.curve("val")


@pytest.fixture(scope="module")
def jobs(slurm, checkout):
    return Jobs(slurm, checkout)


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


def test_requeued_by_hand(jobs, undisturbed):
    job = jobs.submit("requeued")
    jobs.wait_for_step("requeued", 12)
    jobs.slurm.command("scontrol", "requeue", job)
    jobs.wait_for_requeue(job)
    assert 12 <= jobs.checkout.run_of("requeued").status["step"] < TOTAL
    jobs.check_resumed("requeued", job, undisturbed)
    assert "requeue 1 of" not in jobs.log("requeued", job)


def test_preempted_by_a_higher_partition(jobs, undisturbed, tmp_path):
    job = jobs.submit("preempted")
    jobs.wait_for_step("preempted", 12)
    urgent = jobs.slurm.submit(
        *("--partition=high", "--nodes=2", "--exclusive", f"--output={tmp_path}/urgent"),
        *("--wrap", "srun --ntasks-per-node=1 sleep 1"),
    )
    jobs.wait_for_requeue(job)
    assert jobs.wait(urgent) == "COMPLETED"
    jobs.check_resumed("preempted", job, undisturbed)
    assert jobs.slurm.job(job)["Restarts"] == "1"


def test_signalled_by_scancel(jobs, undisturbed):
    job = jobs.submit("signalled")
    jobs.wait_for_step("signalled", 12)
    jobs.slurm.command("scancel", "--signal=USR2", job)
    jobs.wait_for_requeue(job)
    assert jobs.checkout.run_of("signalled").status["state"] == "stopped"
    jobs.check_resumed("signalled", job, undisturbed)
    assert "requeue 1 of 20" in jobs.log("signalled", job)


def test_time_limit_is_announced_and_requeues(jobs, undisturbed):
    job = jobs.submit("limited", options=("--time=10", "--signal=B:USR2@55"))
    jobs.wait_for_step("limited", 12)
    # Time stands still for the ranks until Slurm, which looks twice a minute, sees the limit.
    jobs.slurm.command("scancel", "--signal=STOP", job)
    jobs.slurm.command("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    wait_until(
        lambda: "the time limit is near" in jobs.log("limited", job),
        "USR2 at the batch shell",
        timeout=70,
        explain=jobs.explain,
    )
    jobs.slurm.command("scancel", "--signal=CONT", job)
    jobs.wait_for_requeue(job)
    jobs.slurm.command("scontrol", "update", f"JobId={job}", "TimeLimit=10")
    jobs.check_resumed("limited", job, undisturbed)
    assert "requeue 1 of 20" in jobs.log("limited", job)
