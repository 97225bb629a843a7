"""Which process of how many this is, decided once from what a launcher left in the environment.

torch and Accelerate each read these variables in an order of their own. Where only some are set
they train as many copies as there are processes, or fail with a traceback. So the environment is
read here first: it is understood wholly, or refused in one line.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping

from data_pipeline.errors import UserError
from launch.launchers import (
    TORCH,
    Processes,
    address_of,
    alone,
    number,
    of_mpi,
    of_slurm,
    of_torch,
)

ACCELERATE_PLUGINS = ("DEEPSPEED", "FSDP", "MEGATRON_LM", "PARALLELISM_CONFIG", "SAGEMAKER")


def find_processes(environ: Mapping[str, str]) -> Processes:
    """Decide from an environment which process of how many this is; nothing is changed.

    Raises
    ------
    UserError
        If the variables describe a part of a process group only, or contradict each other.
    """
    if all(environ.get(name) for name in TORCH):
        return of_torch(environ)
    found = (
        of_mpi(environ, "OMPI")
        or of_mpi(environ, "MV2")
        or of_slurm(environ)
        or of_mpi(environ, "PMI")
    )
    if found is not None:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            if environ.get(name) and number(environ, name) != int(found.variables[name] or 0):
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
    return alone(environ)


def leave(*, failed: bool) -> None:
    """Leave torch's process group, if this process is in one, before the interpreter ends.

    gloo's threads would else be ended at work now and then, which aborts the process: a finished
    training would be reported as a failed one. NCCL waits for what it was given to do, which does
    not end where another process is dead: after a failure its group is left as it is.
    """
    if "torch" not in sys.modules:
        return
    from torch import distributed

    if (
        distributed.is_available()
        and distributed.is_initialized()
        and not (failed and distributed.get_backend() != "gloo")
    ):
        distributed.destroy_process_group()


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
        environ["MASTER_ADDR"] = address_of(environ["MASTER_ADDR"])
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


def _local(found: Processes) -> int:
    return int(found.variables.get("LOCAL_RANK") or found.local_rank)


def _true(value: str | None) -> bool:
    return (value or "").lower() in ("1", "true", "yes", "y", "t", "on")
