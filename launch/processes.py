"""Which process of how many this is, decided once from what a launcher left in the environment.

torch and Accelerate each read these variables in an order of their own. Where only some are set
they train as many copies as there are processes, or fail with a traceback. So the environment is
read here first: it is understood wholly, or refused in one line.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Mapping, MutableMapping
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

ACCELERATE_PLUGINS = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG", "SAGEMAKER")


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


def find_processes(environ: Mapping[str, str]) -> Processes:
    """Decide from an environment which process of how many this is; nothing is changed.

    Raises
    ------
    UserError
        If the variables describe a part of a process group only, or contradict each other.
    """
    if all(environ.get(name) for name in TORCH):
        return _of_torch(environ)
    found = (
        _of_mpi(environ, "OMPI")
        or _of_mpi(environ, "MV2")
        or _of_slurm(environ)
        or _of_mpi(environ, "PMI")
    )
    if found is not None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            if environ.get(name) and _number(environ, name) != int(found.variables[name] or 0):
                raise UserError(
                    f"{name}={environ[name]} contradicts {found.launcher}, by which it is "
                    f"{found.variables[name]}; Fix: unset {name}"
                )
        return found
    if environ.get("PMIX_RANK") and not environ.get("SLURM_STEP_ID"):
        raise UserError(
            f"PMIX_RANK={environ['PMIX_RANK']} says that a launcher started this process, and "
            f"nothing says how many there are; Fix: start with torchrun, or unset PMIX_RANK"
        )
    return _alone(environ)


def join(environ: MutableMapping[str, str] = os.environ) -> Processes:
    """Decide, and let torch and Accelerate find in `environ` what was decided.

    Call it before a process group is made. Calling it twice does no harm.
    """
    found = find_processes(environ)
    for name, value in found.variables.items():
        if value is None:
            environ.pop(name, None)
        else:
            environ[name] = value
    if found.launcher == "srun":
        environ["MASTER_ADDR"] = _address_of(environ["MASTER_ADDR"])
    return found


def is_first() -> bool:
    """Whether this process is alone, or rank 0 of its run."""
    try:
        return find_processes(os.environ).rank == 0
    except UserError:
        return True


def may_speak() -> bool:
    """Whether this process should report a user's error.

    Of the processes that one launcher started on a machine the first speaks for all. Without a
    launcher's own mark the variables may be left over from another job: then every process speaks.
    """
    try:
        found = find_processes(os.environ)
    except UserError:
        return True
    return found.local_rank == 0 or found.launcher == "by hand"


def check_device(found: Processes, environ: Mapping[str, str], gpus: int) -> None:
    """Refuse a process for which its machine has no GPU.

    Parameters
    ----------
    found : Processes
    environ : mapping
        May say in LOCAL_WORLD_SIZE how many processes this machine runs.
    gpus : int
        GPUs that torch sees here; 0: the processes run on the CPU.
    """
    here = max(int(environ.get("LOCAL_WORLD_SIZE") or 0), _local(found) + 1)
    if gpus and here > gpus:
        visible = environ.get("CUDA_VISIBLE_DEVICES")
        raise UserError(
            f"{here} processes on this machine (LOCAL_RANK={_local(found)}) and {gpus} GPU(s) "
            f"visible{f' (CUDA_VISIBLE_DEVICES={visible})' if visible else ''}; "
            f"Fix: start {gpus} process(es) a machine, or --no-cuda True"
        )


def check_accelerate(environ: Mapping[str, str], mixed_precision: str | None = None) -> None:
    """Refuse what Accelerate's configuration asks for and this program does otherwise.

    Parameters
    ----------
    environ : mapping
        ``accelerate launch`` hands its configuration on in ACCELERATE_... variables.
    mixed_precision : str, optional
        What training uses; None: the command does not train.

    Raises
    ------
    UserError
        One line that names the variable and our flag for it.
    """
    for plugin in ACCELERATE_PLUGINS:
        name = f"ACCELERATE_USE_{plugin}"
        if _true(environ.get(name)):
            raise UserError(
                f"{name}={environ[name]}: this program knows one kind of several processes, each "
                f"with the whole model (DDP); Fix: distributed_type MULTI_GPU in accelerate's "
                f"configuration, as in launch/accelerate/, or unset {name}"
            )
    if mixed_precision is None:
        return
    refused = {
        "ACCELERATE_MIXED_PRECISION": ({"no", mixed_precision}, "--mixed-precision {}"),
        "ACCELERATE_DYNAMO_BACKEND": ({"no"}, "--compile True"),
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ({"1"}, "--accumulate {}"),
        "ACCELERATE_TORCH_DEVICE": (set(), "--no-cuda True or CUDA_VISIBLE_DEVICES"),
    }
    for name, (fine, flag) in refused.items():
        value = environ.get(name, "").lower()
        if value and value not in fine:
            raise UserError(
                f"{name}={environ[name]}, from accelerate's configuration or the shell, has no "
                f"effect here; Fix: say it with {flag.format(value)}, and take it out there"
            )


def _of_torch(environ: Mapping[str, str]) -> Processes:
    rank, size, local = (_number(environ, n) for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    here = _number(environ, "LOCAL_WORLD_SIZE") if environ.get("LOCAL_WORLD_SIZE") else size
    if not (0 <= rank < size and 0 <= local < here <= size):
        shown = ", ".join(f"{n}={environ[n]}" for n in TORCH[:3])
        raise UserError(f"{shown} contradict each other; Fix: start with torchrun, or unset them")
    if not 0 <= _number(environ, "MASTER_PORT") < 2**16:
        raise UserError(f"MASTER_PORT={environ['MASTER_PORT']}: is no port")
    launcher = "torch" if environ.get("TORCHELASTIC_RUN_ID") else "by hand"
    if launcher == "by hand" and _is_task(environ) and environ.get("SLURM_NTASKS") == str(size):
        launcher = "srun"
        if _number(environ, "SLURM_PROCID") != rank:
            raise UserError(
                f"RANK={rank} contradicts srun, by which it is {environ['SLURM_PROCID']}; "
                f"Fix: unset RANK"
            )
    # Accelerate believes an MPI's variables before torch's.
    drop: dict[str, str | None] = {name: None for names in MPI.values() for name in names}
    return Processes(rank=rank, size=size, local_rank=local, launcher=launcher, variables=drop)


def _of_mpi(environ: Mapping[str, str], family: str) -> Processes | None:
    names = MPI[family]
    size_name, rank_name, local_name = names
    if not any(environ.get(name) for name in names[:2]):
        return None
    missing = [name for name in names[:2] if not environ.get(name)]
    if not missing:
        size, rank = _number(environ, size_name), _number(environ, rank_name)
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
    return _mapped("mpirun", rank, size, _number(environ, local_name), environ)


def _of_slurm(environ: Mapping[str, str]) -> Processes | None:
    if not _is_task(environ):
        return None
    task = _number(environ, "SLURM_PROCID")
    counts = ("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS")
    count_name = next((name for name in counts if environ.get(name)), "SLURM_NTASKS")
    tasks = _number(environ, count_name) if environ.get(count_name) else 1
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
    local = _number(environ, "SLURM_LOCALID")
    lists = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = next((environ[name] for name in lists if environ.get(name)), "")
    head = first_host(nodes)
    if not environ.get("MASTER_ADDR") and not head:
        raise UserError(
            f"SLURM_PROCID={task} of {tasks}, and neither MASTER_ADDR nor SLURM_STEP_NODELIST says "
            f"where the processes meet; Fix: start with srun, or set MASTER_ADDR"
        )
    job = _number(environ, "SLURM_JOB_ID") + int(_step(environ) or 0)
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


def _alone(environ: Mapping[str, str]) -> Processes:
    """No launcher: leftovers that say "the only process" are dropped, others refused."""
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    left = {name: _number(environ, name) for name in names if environ.get(name)}
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
    return _step(environ) is not None or _number(environ, "SLURM_PROCID") > 0


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


def _address_of(host: str) -> str:
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


def _local(found: Processes) -> int:
    return int(found.variables.get("LOCAL_RANK") or found.local_rank)


def _number(environ: Mapping[str, str], name: str) -> int:
    try:
        return int(environ[name])
    except ValueError:
        raise UserError(f"{name}={environ[name]!r} is not a number; Fix: unset {name}") from None


def _true(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes", "y", "t", "on")
