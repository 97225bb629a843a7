"""A small training that every cluster test disturbs in its own way, and its undisturbed result."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file

from tests.cluster.parts import run, wait_until
from tests.cluster.slurm import SlurmCluster

# 3 epochs of 144 steps: seconds, and long enough to be caught in the middle.
SMALL = (
    *("--model-type", "fc_conv", "--latent-size", "4", "--epochs", "3", "--batch-size", "8"),
    *("--log-every", "4", "--tensorboard", "False", "--telemetry-interval", "0"),
)
TOTAL = 3 * 144


@dataclass(frozen=True)
class Checkout:
    """A copy of the project in a folder of its own, with prepared digits and its runs."""

    path: Path

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.path / "data" / "digits"

    @property
    def environment(self) -> dict[str, str]:
        """Variables for commands: this interpreter first on PATH, one thread a process."""
        outer = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "SLURM_CONF")}
        path = f"{Path(sys.executable).parent}:{outer['PATH']}"
        return outer | {"PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}

    def flags(self, name: str, *more: str) -> list[str]:
        """The trainer's flags for the small training under this name."""
        return ["--data", str(self.data), "--name", name, *SMALL, *more]

    def vae_dist(self, *words: object, **options) -> str:
        """Run `vae-dist WORDS` here to its end."""
        command = (sys.executable, "-m", "launch.cli", *words)
        return run(*command, cwd=self.path, env=self.environment, timeout=240, **options)

    def run_of(self, name: str) -> "Result":
        """What the run of this name has left so far."""
        return Result(self.path / "runs" / name)


@dataclass(frozen=True)
class Result:
    """A run folder, read from outside."""

    path: Path

    @property
    def status(self) -> dict:
        """`status.json`; empty while there is none."""
        try:
            return json.loads((self.path / "status.json").read_text())
        except FileNotFoundError:
            return {}

    @property
    def lines(self) -> list[dict]:
        """`metrics.jsonl`; empty while there is none."""
        try:
            text = (self.path / "metrics.jsonl").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def curve(self, split: str) -> dict[int, float]:
        """Loss by step; where a step was done twice, the later one."""
        return {line["step"]: line["loss"] for line in self.lines if line["split"] == split}

    @property
    def weights(self) -> dict:
        """Tensors of the last checkpoint."""
        return load_file(self.path / "checkpoints" / "last" / "model.safetensors")

    def has_same_weights(self, other: "Result") -> bool:
        """Whether the last checkpoints of both agree bit for bit."""
        mine, theirs = self.weights, other.weights
        return mine.keys() == theirs.keys() and all(mine[k].equal(theirs[k]) for k in mine)

    def wait_for_step(self, step: int, *, timeout: float = 180, explain=lambda: "") -> None:
        """Wait until the run has logged this step."""
        wait_until(
            lambda: any(line["step"] >= step for line in self.lines[-1:]),
            f"step {step} of {self.path.name}",
            timeout=timeout,
            interval=0.05,
            explain=explain,
        )


@dataclass
class Jobs:
    """Submits training jobs from a checkout and reads what they leave."""

    slurm: SlurmCluster
    checkout: Checkout

    def submit(
        self, name: str, *flags: str, options: tuple = ("--nodes=2",), **environment: str
    ) -> str:
        """Submit slurm/train.sbatch with the small training under this name; the job's id."""
        return self.sbatch(
            *(f"--job-name={name}", *options, "slurm/train.sbatch"),
            *self.checkout.flags(name, *flags),
            **environment,
        )

    def sbatch(self, *words: str, **environment: str) -> str:
        """`sbatch` in the checkout, with `environment` added; the job's id."""
        return self.run("sbatch", "--parsable", *words, **environment).strip()

    def run(self, *words: str, check: bool = True, **environment: str) -> str:
        """Any command in the checkout that talks to Slurm."""
        variables = self.checkout.environment | environment
        if not any("--gpus" in word for word in words):
            variables.setdefault("RANKS_PER_NODE", "1")
        return self.slurm.command(
            *words, cwd=self.checkout.path, environment=variables, check=check
        )

    def explain(self) -> str:
        """The ends of all logs, for a failing test's message."""
        logs = [*self.checkout.path.glob("*.log"), *self.checkout.path.glob("slurm-logs/*.log")]
        return "\n".join(f"== {log.name}\n{log.read_text()[-3000:]}" for log in sorted(logs))

    def wait_for_step(self, name: str, step: int) -> None:
        """Wait until the run has logged this step."""
        self.checkout.run_of(name).wait_for_step(step, explain=self.explain)

    def log(self, name: str, job: str) -> str:
        """What the batch shell of a job said."""
        return (self.checkout.path / f"{name}-{job}.log").read_text()

    def wait(self, job: str, *states: str, timeout: float = 240) -> str:
        """Wait until the job is over, or in one of these states."""
        return self.slurm.wait(job, *states, timeout=timeout)

    def wait_for_requeue(self, job: str) -> None:
        """Wait until the job is back in the queue."""
        wait_until(
            lambda: self.slurm.state(job) == "PENDING",
            f"requeue of {job}",
            timeout=90,
            explain=self.explain,
        )

    def check_resumed(self, name: str, job: str, undisturbed: Result) -> None:
        """The run went on from where it was stopped and ended as the undisturbed one."""
        assert self.wait(job) == "COMPLETED", self.explain()
        result = self.checkout.run_of(name)
        node_log = next((self.checkout.path / "slurm-logs").glob(f"{name}-{job}-0-*.log"))
        assert "resuming" in node_log.read_text(), self.explain()
        assert result.status["state"] == "done"
        assert result.status["step"] == TOTAL
        assert result.has_same_weights(undisturbed)
        assert result.curve("val") == undisturbed.curve("val")

    def tasks(self, job: str, count: int) -> list[str]:
        """How `scontrol` names the tasks of an array job."""
        return [f"{job}_{number}" for number in range(1, count + 1)]
