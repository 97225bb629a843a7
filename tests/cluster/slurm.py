"""A real Slurm of two nodes on the loopback device: own folder, own ports, own munge."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.parts import run, wait_until

PROGRAMS = {"slurmctld": "slurmctld", "slurmd": "slurmd", "sbatch": "slurm-client"}
PROGRAMS |= {"munged": "munge"}
CPUS = 8  # pretended: lets small jobs run side by side

CONFIG = """
ClusterName=loop
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=25
SlurmdParameters=config_overrides
InactiveLimit=0
MinJobAge=600
SchedulerParameters=sched_interval=5,batch_sched_delay=0,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
JobRequeue=1
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
NodeName=node[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port=[{ports[1]}-{ports[2]}] \
CPUs={cpus} RealMemory=64000 Gres=gpu:2 State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES PriorityTier=1
PartitionName=grace Nodes=ALL PriorityTier=1 GraceTime=90
PartitionName=high Nodes=ALL PriorityTier=10
"""

GRES = """
NodeName=node1 Name=gpu File={folder}/gpu[0-1]
NodeName=node2 Name=gpu File={folder}/gpu[2-3]
"""


def free_block(length: int) -> int:
    """The first of `length` neighbouring ports that nothing listens on, below the ephemeral range."""
    for _ in range(200):
        start = 10_000 + secrets.randbelow(9_000)
        try:
            for port in range(start, start + length):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return start
    raise RuntimeError("no free ports between 10000 and 19000")


@dataclass
class SlurmCluster:
    """slurmctld, two slurmd and munged, started by `start` and ended by `stop`."""

    folder: Path
    daemons: list[subprocess.Popen] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """The variables under which Slurm's commands talk to this cluster."""
        return {"PATH": os.environ["PATH"], "SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Write the configuration, start the daemons and wait until both nodes are idle."""
        first = free_block(3)
        (self.folder / "state").mkdir(parents=True)
        for index in range(4):
            run("mknod", self.folder / f"gpu{index}", "c", 1, 3)
        ports = range(first, first + 3)
        text = CONFIG.format(folder=self.folder, ports=ports, cpus=CPUS)
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "gres.conf").write_text(GRES.format(folder=self.folder))
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self.folder.chmod(0o755)
        munge = ["munged", "--foreground", "--force", f"--key-file={key}"]
        munge += [f"--{name}-file={self.folder}/munge.{name}" for name in ("log", "pid", "seed")]
        self._daemon([*munge, f"--socket={self.folder}/munge.sock"])
        wait_until((self.folder / "munge.sock").exists, "munged", timeout=20)
        self._daemon(["slurmctld", "-D", "-f", self.folder / "slurm.conf"])
        for node in ("node1", "node2"):
            self._daemon(["slurmd", "-D", "-f", self.folder / "slurm.conf", "-N", node])
        wait_until(
            lambda: (
                self.command("sinfo", "-h", "-N", "-p", "debug", "-o", "%T", check=False)
                .split()
                .count("idle")
                == 2
            ),
            "two idle nodes",
            timeout=60,
            explain=self.logs,
        )

    def _daemon(self, command: list) -> None:
        output = (self.folder / f"daemon-{len(self.daemons)}.out").open("w")
        self.daemons.append(
            subprocess.Popen(
                [shutil.which(command[0]) or command[0], *map(str, command[1:])],
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        )

    def stop(self) -> None:
        """Cancel what runs and end the daemons that `start` started."""
        self.command("scancel", "--user=root", check=False)
        try:
            wait_until(lambda: not self.command("squeue", "-h"), "jobs to end", timeout=40)
        except (TimeoutError, RuntimeError):  # RuntimeError: there is no slurmctld to ask
            self.command("scancel", "--user=root", "--signal=KILL", "--full", check=False)
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def command(self, *words: object, environment: dict[str, str] | None = None, **options) -> str:
        """Run one of Slurm's commands against this cluster, with `environment` laid over ours."""
        return run(*words, env=self.environment | (environment or {}), **options)

    def submit(self, *words: object, **options) -> str:
        """`sbatch` and the id of the new job."""
        return self.command("sbatch", "--parsable", *words, **options).strip()

    def job(self, job: str) -> dict[str, str]:
        """What `scontrol show job` knows of one job."""
        shown = self.command("scontrol", "-o", "show", "job", job, check=False)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def state(self, job: str) -> str:
        """The job's state, for example PENDING, RUNNING, COMPLETED."""
        return self.job(job).get("JobState", "UNKNOWN")

    def wait(self, job: str, *states: str, timeout: float = 120) -> str:
        """Wait until the job is in one of `states`; without any, until it has left the queue."""
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")
        wanted = states or over
        wait_until(
            lambda: self.state(job) in wanted,
            f"job {job} to be {' or '.join(wanted)}",
            timeout=timeout,
            explain=lambda: f"{self.job(job)}\n{self.logs()}",
        )
        return self.state(job)

    def logs(self) -> str:
        """The ends of the daemons' logs, for a failing test's message."""
        names = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(f"== {name.name}\n{name.read_text()[-1500:]}" for name in names)
