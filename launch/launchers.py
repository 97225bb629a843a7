"""What each launcher leaves in the environment of a process: torch's, an MPI, srun, none."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field

from data_pipeline.errors import UserError

TORCH = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a process group needs; torchrun and ``accelerate launch`` set all of them."""

MPI = {
    "OMPI": ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "MV2": ("MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_LOCAL_RANK"),
    "PMI": ("PMI_SIZE", "PMI_RANK", "MPI_LOCALRANKID"),
}
"""Of each MPI: the variables that hold size, rank and local rank."""

SPECIAL_STEPS = 2**32 - 16
"""From here on Slurm's step numbers are not srun's: batch script, interactive shell, extern."""


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those of its run.

    Attributes
    ----------
    rank, size, local_rank : int
        Which process of how many, and which on this machine.
    launcher : str
        ``"none"``, ``"torch"`` (torchrun, ``accelerate launch``), ``"srun"``, ``"mpirun"`` or
        ``"by hand"``: all variables are set, and no launcher shows that it set them.
    variables : dict of str to str or None
        What torch and Accelerate must find in the environment; None: nothing.
    note : str
        What the user should hear about it; empty: nothing.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    launcher: str = "none"
    variables: dict[str, str | None] = field(default_factory=dict)
    note: str = ""


def of_torch(environ: Mapping[str, str]) -> Processes:
    """The process as torchrun, or the user by hand, describes it."""
    rank, size, local = (number(environ, n) for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    here = number(environ, "LOCAL_WORLD_SIZE") if environ.get("LOCAL_WORLD_SIZE") else size
    if not (0 <= rank < size and 0 <= local < here <= size):
        shown = ", ".join(f"{n}={environ[n]}" for n in TORCH[:3])
        raise UserError(f"{shown} contradict each other; Fix: start with torchrun, or unset them")
    if not 0 <= number(environ, "MASTER_PORT") < 2**16:
        raise UserError(f"MASTER_PORT={environ['MASTER_PORT']}: is no port")
    launcher = "torch" if environ.get("TORCHELASTIC_RUN_ID") else "by hand"
    if launcher == "by hand" and _is_task(environ) and environ.get("SLURM_NTASKS") == str(size):
        launcher = "srun"
        if number(environ, "SLURM_PROCID") != rank:
            raise UserError(
                f"RANK={rank} contradicts srun, by which it is {environ['SLURM_PROCID']}; "
                f"Fix: unset RANK"
            )
    # Accelerate believes an MPI's variables before torch's.
    drop: dict[str, str | None] = {name: None for names in MPI.values() for name in names}
    return Processes(rank=rank, size=size, local_rank=local, launcher=launcher, variables=drop)


def of_mpi(environ: Mapping[str, str], family: str) -> Processes | None:
    """The process as an MPI of this family describes it; None without one."""
    names = MPI[family]
    size_name, rank_name, local_name = names
    if not any(environ.get(name) for name in names[:2]):
        return None
    missing = [name for name in names[:2] if not environ.get(name)]
    if not missing:
        size, rank = number(environ, size_name), number(environ, rank_name)
        if size == 1 and rank == 0:
            return None
        if not 0 <= rank < size:
            raise UserError(
                f"{rank_name}={rank} and {size_name}={size} contradict each other; "
                f"Fix: start with torchrun, or unset them"
            )
        missing = [n for n in (local_name, "MASTER_ADDR", "MASTER_PORT") if not environ.get(n)]
    if missing:
        shown = ", ".join(f"{n}={environ[n]}" for n in names[:2] if environ.get(n))
        raise UserError(
            f"{shown} says that an MPI started this process, and {', '.join(missing)} is not set; "
            f"Fix: start with torchrun --nproc-per-node N, set it, or unset {size_name} and "
            f"{rank_name} if another job left them"
        )
    return _mapped("mpirun", rank, size, number(environ, local_name), environ)


def of_slurm(environ: Mapping[str, str]) -> Processes | None:
    """The process as srun describes it; None outside a step of several tasks."""
    if not _is_task(environ):
        return None
    task = number(environ, "SLURM_PROCID")
    counts = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")
    count_name = next((name for name in counts if environ.get(name)), "SLURM_NTASKS")
    tasks = number(environ, count_name) if environ.get(count_name) else 1
    if tasks == 1 and task == 0:
        return None
    needed = ("SLURM_LOCALID", "SLURM_JOB_ID")
    missing = [name for name in needed if not environ.get(name)]
    if task >= tasks or missing:
        trouble = f"{', '.join(missing)} is not set" if missing else f"{count_name}={tasks}"
        raise UserError(
            f"SLURM_PROCID={task} says that srun started this process, and {trouble}; "
            f"Fix: start with srun or torchrun, or unset SLURM_PROCID if another job left it"
        )
    local = number(environ, "SLURM_LOCALID")
    lists = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = next((environ[name] for name in lists if environ.get(name)), "")
    head = first_host(nodes)
    if not environ.get("MASTER_ADDR") and not head:
        raise UserError(
            f"SLURM_PROCID={task} of {tasks}, and neither MASTER_ADDR nor SLURM_STEP_NODELIST says "
            f"where the processes meet; Fix: start with srun, or set MASTER_ADDR"
        )
    job = number(environ, "SLURM_JOB_ID") + int(_step(environ) or 0)
    per_node = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    node = environ.get("SLURM_NODEID", "0")
    here = tasks_of_node(per_node, int(node)) if node.isdigit() else None
    # A task that srun gave a GPU of its own sees that one, as number 0.
    own = environ.get("SLURM_GPUS_PER_TASK") or "gpu" in environ.get("SLURM_TRES_PER_TASK", "")
    if own and len(environ.get("CUDA_VISIBLE_DEVICES", "").split(",")) == 1:
        here = 1
    return _mapped(
        "srun",
        task,
        tasks,
        local,
        {
            "MASTER_ADDR": head,
            "MASTER_PORT": str(20000 + job % 10000),  # below the ephemeral range
            "LOCAL_WORLD_SIZE": str(here or ""),
        }
        | {name: environ[name] for name in TORCH[3:] if environ.get(name)},
    )


def _mapped(
    launcher: str, rank: int, size: int, local: int, environ: Mapping[str, str]
) -> Processes:
    alone = environ.get("LOCAL_WORLD_SIZE") == "1"
    variables: dict[str, str | None] = {name: None for names in MPI.values() for name in names}
    variables |= {"RANK": str(rank), "WORLD_SIZE": str(size)}
    variables |= {"LOCAL_RANK": "0" if alone else str(local)}
    variables |= {name: environ[name] for name in TORCH[3:]}
    variables["LOCAL_WORLD_SIZE"] = environ.get("LOCAL_WORLD_SIZE") or None
    return Processes(rank=rank, size=size, local_rank=local, launcher=launcher, variables=variables)


def alone(environ: Mapping[str, str]) -> Processes:
    """No launcher: leftovers that say "the only process" are dropped, others refused."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    left = {name: number(environ, name) for name in names if environ.get(name)}
    only = left.get("WORLD_SIZE") == 1 and not left.get("RANK") and not left.get("LOCAL_RANK")
    if left and not only:
        missing = [name for name in TORCH if not environ.get(name)]
        raise UserError(
            f"{', '.join(f'{n}={v}' for n, v in left.items())} is set, as a launcher does, and "
            f"{', '.join(missing)} is not; Fix: unset {' '.join(left)}, or start with torchrun or "
            f"accelerate launch"
        )
    drop = [*names, "LOCAL_WORLD_SIZE", *(name for family in MPI.values() for name in family)]
    note = ""
    if environ.get("SLURM_NTASKS", "1") != "1" and environ.get("SLURM_PROCID", "0") == "0":
        note = (
            f"one process, though Slurm gave {environ['SLURM_NTASKS']} tasks: "
            f"srun in front starts all of them as one training"
        )
    return Processes(variables=dict.fromkeys(drop), note=note)


def _is_task(environ: Mapping[str, str]) -> bool:
    """Whether srun started this: batch scripts and salloc's shells have SLURM_NTASKS too."""
    if not environ.get("SLURM_PROCID"):
        return False
    return _step(environ) is not None or number(environ, "SLURM_PROCID") > 0


def _step(environ: Mapping[str, str]) -> str | None:
    step = environ.get("SLURM_STEP_ID") or environ.get("SLURM_STEPID") or ""
    return step if step.isdigit() and int(step) < SPECIAL_STEPS else None


def first_host(nodes: str) -> str:
    """First host of a Slurm node list: ``rack[03-05,7]-gpu,login`` gives ``rack03-gpu``."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", first.group(0) if first else "")


def tasks_of_node(counts: str, node: int) -> int | None:
    """Tasks of a node in Slurm's short form: of ``2(x3),1`` the nodes 0 to 2 run 2 each."""
    each: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", counts):
        each += [int(count)] * int(times or 1)
    return each[node] if node < len(each) else None


def address_of(host: str) -> str:
    """The host's name if it resolves; else the address under which Slurm knows the node."""
    try:
        socket.getaddrinfo(host, None)
        return host
    except OSError:
        if not shutil.which("scontrol"):
            raise UserError(f"MASTER_ADDR={host} does not resolve here; Fix: set it") from None
    shown = subprocess.run(
        ["scontrol", "-o", "show", "node", host], capture_output=True, text=True, timeout=60
    ).stdout
    address = re.search(r"NodeAddr=(\S+)", shown)
    if not address:
        raise UserError(f"MASTER_ADDR={host} does not resolve, and scontrol does not know it")
    return address.group(1)


def number(environ: Mapping[str, str], name: str) -> int:
    """The whole number of a variable."""
    try:
        return int(environ[name])
    except ValueError:
        raise UserError(f"{name}={environ[name]!r} is not a number; Fix: unset {name}") from None
