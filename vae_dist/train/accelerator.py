"""How a step is computed: precision, compilation, DDP's options. Makes the Accelerator."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
import torch.distributed as dist
from torch import nn

from data_pipeline.checks import Above, check_fields
from data_pipeline.errors import UserError

if TYPE_CHECKING:
    from accelerate import Accelerator, PartialState

NCCL_GRACE = 60.0
"""Seconds that NCCL waits longer than the trainer's own gloo group: NCCL ends the process in the
middle of a step, while a gloo timeout is an error that says what to do."""


TOLD_AFTER = 5.0
"""Seconds that processes look for each other before the user hears of it."""


@dataclasses.dataclass(kw_only=True)
class PrecisionConfig:
    """Precision and speed."""

    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    """Autocast of the model; losses are fp32 always. fp16 needs a GPU."""
    tf32: bool = True
    """Let fp32 matrix products and convolutions use TF32 on NVIDIA GPUs."""
    deterministic: bool = True
    """On a GPU let cuDNN take only algorithms of convolutions that give the same bits each time;
    without it a resumed run of convolutions is the same up to rounding."""
    compile: bool = False
    """torch.compile the module (before DDP wraps it)."""
    compile_mode: Literal["default", "reduce-overhead", "max-autotune"] = "default"
    """Mode of --compile; reduce-overhead uses CUDA graphs."""
    cuda_graph: Literal["auto", "on", "off"] = "auto"
    """Start the forward and backward of a step as one CUDA graph, on one GPU; auto: not for
    models of your own."""
    channels_last: bool = False
    """Keep images and convolutions in channels-last order."""
    static_graph: bool = False
    """DDP: promise that every step uses the same parameters."""
    gradient_as_bucket_view: bool = True
    """DDP: gradients live in the communication buckets, one copy less."""
    collective_timeout: Annotated[float, Above(0)] = 600.0
    """Seconds that a rank waits for the others before it fails."""
    no_cuda: bool = False
    """Run on the CPU even where there is a GPU."""
    detect_anomaly: bool = False
    """Name the operation whose gradient became NaN; slow, for debugging."""

    def __post_init__(self) -> None:
        check_fields(self)
        on_cpu = self.no_cuda or not torch.cuda.is_available()
        if self.mixed_precision == "fp16" and on_cpu:
            raise UserError(
                "--mixed-precision fp16 needs a GPU, and this process would run on the CPU; "
                "use bf16 or no"
            )
        if self.compile_mode != "default" and not self.compile:
            warnings.warn("--compile-mode has no effect without --compile True", stacklevel=2)


def make_accelerator(config: PrecisionConfig, run_dir: Path, trackers: list[str]) -> Accelerator:
    """Start (or join) the process group and return Accelerate's handle on it.

    Parameters
    ----------
    config : PrecisionConfig
    run_dir : Path
        Trackers that write files write below it.
    trackers : list of str
        Names of Accelerate's trackers, TensorBoard apart.

    Raises
    ------
    UserError
        If the other processes are not found, or ``--compile`` finds no compiler.
    """
    from accelerate import Accelerator
    from accelerate.utils import (
        DistributedDataParallelKwargs,
        InitProcessGroupKwargs,
        ProjectConfiguration,
    )

    cpu = config.no_cuda or not torch.cuda.is_available()
    if config.compile:
        find_compiler(cpu)
    set_tf32(config.tf32)
    torch.backends.cudnn.deterministic = config.deterministic
    torch.autograd.set_detect_anomaly(config.detect_anomaly)
    wait = config.collective_timeout + (0.0 if cpu else NCCL_GRACE)
    try:
        with told_what_is_awaited(wait):
            return Accelerator(
                mixed_precision=config.mixed_precision,
                cpu=cpu,
                log_with=list(trackers) or None,
                project_config=ProjectConfiguration(
                    project_dir=str(run_dir), logging_dir=str(run_dir)
                ),
                step_scheduler_with_optimizer=False,
                kwargs_handlers=[
                    InitProcessGroupKwargs(timeout=timedelta(seconds=wait)),
                    DistributedDataParallelKwargs(
                        broadcast_buffers=False,
                        static_graph=config.static_graph,
                        gradient_as_bucket_view=config.gradient_as_bucket_view,
                    ),
                ],
            )
    except (dist.DistNetworkError, dist.DistStoreError) as error:
        raise UserError(
            f"the processes of this run do not find each other ({' '.join(str(error).split())[:200]}"
            "); Fix: look at MASTER_ADDR and MASTER_PORT, and whether all processes have started"
        ) from error


def join_processes(cpu: bool) -> PartialState:
    """The processes that a launcher started, one world also where there is no GPU.

    Parameters
    ----------
    cpu : bool
        Leave GPUs alone. Where there are none this is so anyway, which Accelerate has to be told:
        it would take each process for the only one.
    """
    from accelerate import PartialState

    with told_what_is_awaited():
        return PartialState(cpu=cpu or not torch.cuda.is_available())


@contextlib.contextmanager
def told_what_is_awaited(timeout: float = 600.0) -> Iterator[None]:
    """Say after `TOLD_AFTER` seconds in here which processes this one waits for, and where.

    The variables may be left over in the shell from another job: nobody comes then.
    """
    size, rank = os.environ.get("WORLD_SIZE", "1"), os.environ.get("RANK", "0")
    launched = "TORCHELASTIC_RUN_ID" in os.environ
    if size == "1" or (launched and os.environ.get("LOCAL_RANK", "0") != "0"):
        yield
        return
    where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
    line = (
        f"vae-dist: RANK={rank} of WORLD_SIZE={size}: waiting for the other processes at {where}, up "
        f"to {timeout:g} s. If this is to be the only process, another job left these variables: "
        "unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT"
    )
    timer = threading.Timer(TOLD_AFTER, print, [line], {"file": sys.stderr, "flush": True})
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def find_compiler(cpu: bool) -> str:
    """Path of the compiler that ``torch.compile`` will call: of C++ on the CPU, of C with a GPU."""
    variable, usual = ("CXX", ("g++", "clang++")) if cpu else ("CC", ("gcc", "clang"))
    names = [name for name in (os.environ.get(variable), *usual) if name]
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        raise UserError(
            f"--compile True: needs a compiler, and there is no {' or '.join(names)} here; "
            f"Fix: install one, or --compile False"
        )
    return found


def set_tf32(allowed: bool) -> None:
    """Let fp32 products of matrices and convolutions use TF32, or none of them.

    Set both ways, for torch's own default has convolutions use it and matrices not.
    """
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed


def on_main(is_main: bool, work: Callable[[], None]) -> None:
    """Let the main process do something alone; if the user's files stop it, stop all processes.

    Raises
    ------
    UserError
        On every process, where `work` raised it on the main one.
    """
    from accelerate.utils import broadcast_object_list

    trouble = [""]
    if is_main:
        try:
            work()
        except UserError as error:
            trouble = [str(error)]
    broadcast_object_list(trouble)
    if trouble[0]:
        raise UserError(trouble[0])


def prepare_module(module: nn.Module, config: PrecisionConfig) -> nn.Module:
    """Apply the memory format and compile in place, so that names in the state stay the same."""
    if config.channels_last:
        module = module.to(memory_format=torch.channels_last)
    if config.compile:
        module.compile(mode=None if config.compile_mode == "default" else config.compile_mode)
    return module
