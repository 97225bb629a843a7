"""Will it fit: what a step needs, from a dry run, and what there is."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from vae_dist.models.base import Checkpointed
from vae_dist.objective import Objective
from vae_dist.telemetry.summary import show_bytes

log = logging.getLogger("vae_dist.memory.estimate")

_STATES = {"adam": 2, "adamw": 2, "rmsprop": 1, "sgd": 0}
_CGROUP = Path("/sys/fs/cgroup")


@dataclasses.dataclass(kw_only=True)
class MemoryConfig:
    """Memory: fitting a batch into it."""

    find_batch_size: bool = False
    """Before training, grow the micro-batch to the largest that fits; --batch-size stays the
    global batch, by accumulation (sets --accumulate)."""
    memory_history: bool = False
    """Record GPU allocations, so that an out-of-memory snapshot says which line made each (for
    pytorch.org/memory_viz; slows allocation down)."""


@dataclasses.dataclass(frozen=True)
class Need:
    """Bytes that a training step needs on one process, by what they hold."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int | None
    inputs: int
    micro_batch: int

    @property
    def total(self) -> int | None:
        """All of it; None where the activations are not known."""
        if self.activations is None:
            return None
        return self.fixed + self.activations

    @property
    def fixed(self) -> int:
        """What does not depend on the micro-batch."""
        return self.parameters + self.gradients + self.optimizer + self.inputs

    def describe(self, available: int | None) -> str:
        """One line: the parts, the whole, what there is, and whether that will do."""
        parts = {
            "parameters": self.parameters,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "inputs": self.inputs,
        }
        text = ", ".join(f"{name} {show_bytes(size)}" for name, size in parts.items())
        if self.total is None:
            return f"memory: {text}; activations are not known before the first step"
        text = (
            f"memory expected: {show_bytes(self.total)} a process ({text}, activations "
            f"{show_bytes(self.activations)} for {self.micro_batch} images)"
        )
        if available is None:
            return text
        verdict = "fits" if self.total <= available else "WILL NOT FIT: raise --accumulate"
        return f"{text}; {show_bytes(available)} available: {verdict}"

    def as_dict(self) -> dict[str, int | None]:
        """For ``status.json``."""
        sizes = {f"{name}_bytes": size for name, size in dataclasses.asdict(self).items()}
        micro_batch = sizes.pop("micro_batch_bytes")
        return {**sizes, "total_bytes": self.total, "micro_batch": micro_batch}


def optimizer_states(optimizer: str, momentum: float) -> int:
    """Tensors of a parameter's size that an optimizer keeps for it."""
    return _STATES[optimizer] + int(momentum > 0 and optimizer in ("sgd", "rmsprop"))


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes that tensors hold."""
    return sum(t.numel() * t.element_size() for t in tensors)


def activation_bytes(
    objective: Objective,
    images: int,
    image_shape: tuple[int, ...],
    samples: int = 1,
    precision: str = "no",
) -> int | None:
    """Bytes that a forward pass keeps for its backward pass, by a dry run without memory.

    The pass runs under ``FakeTensorMode``: shapes and types only, on the device of the
    parameters. Counted are the storages that autograd saves and the outputs, and once more
    the largest of them, for the gradient that the backward pass holds beside them.

    Parameters
    ----------
    objective : Objective
    images : int
        Images in the micro-batch.
    image_shape : tuple of int
        (C, H, W).
    samples : int
        Latent samples an image.
    precision : str
        ``no``, ``bf16`` or ``fp16``.

    Returns
    -------
    int or None
        None where an operation has no dry run.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    device = next(objective.parameters()).device
    mode = FakeTensorMode()
    held: dict[int, tuple[Any, int]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        held[storage._cdata] = (storage, storage.nbytes())
        return tensor

    again = [0]

    def count_again(block: nn.Module, args: tuple[Tensor, ...]) -> None:
        """Bytes that a checkpointed block's second computation holds, one block at a time."""
        assert isinstance(block, Checkpointed)
        inside: dict[int, Any] = {}

        def keep_inside(tensor: Tensor) -> Tensor:
            inside[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep_inside, lambda tensor: tensor):
            block.compute(*args)
        known = own | {tensor.untyped_storage()._cdata for tensor in args}
        again.append(sum(s.nbytes() for key, s in inside.items() if key not in known))

    blocks = [m for m in objective.modules() if isinstance(m, Checkpointed) and m.again]
    hooks = [block.register_forward_pre_hook(count_again) for block in blocks]
    named = [*objective.named_parameters(), *objective.named_buffers()]
    state: dict[str, Tensor] = {name: mode.from_tensor(tensor) for name, tensor in named}
    own = {tensor.untyped_storage()._cdata for tensor in state.values()}
    kind = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    try:
        with (
            mode,
            torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
            torch.autocast(device.type, dtype=kind) if kind else contextlib.nullcontext(),
        ):
            x = torch.empty(images, *image_shape, device=device)
            labels = torch.zeros(images, dtype=torch.int64, device=device)
            noise = torch.empty(images, samples, objective.model.latent_size, device=device)
            given = {t.untyped_storage()._cdata for t in (x, labels, noise)}
            terms = torch.func.functional_call(objective, state, (x, noise, labels))
            for term in terms:
                if term is not None:
                    keep(term)
    except Exception as error:
        # FakeTensorMode has no rule for every operation; an estimate must not stop a run
        log.info("no dry run of %s: %s", type(objective.model).__name__, error)
        return None
    finally:
        for hook in hooks:
            hook.remove()
    sizes = [size for key, (_, size) in held.items() if key not in own | given]
    return sum(sizes) + max(sizes, default=0) + max(again)


def estimate(
    objective: Objective,
    *,
    image_shape: tuple[int, ...],
    local_batch: int,
    global_batch: int,
    accumulate: int = 1,
    samples: int = 1,
    precision: str = "no",
    optimizer: str = "adam",
    momentum: float = 0.0,
    value_bytes: int = 1,
) -> Need:
    """Estimate what one process needs for a step.

    Parameters
    ----------
    objective : Objective
        On its device; only shapes are looked at.
    image_shape : tuple of int
        (C, H, W).
    local_batch, global_batch : int
        Images of this process and of all in a step.
    accumulate : int
        Micro-batches a step.
    samples : int
        Latent samples an image.
    precision : str
        ``no``, ``bf16`` or ``fp16``.
    optimizer, momentum : str, float
        For the tensors that it keeps.
    value_bytes : int
        Of a stored value of the images.
    """
    trained = bytes_of(p for p in objective.parameters() if p.requires_grad)
    micro = math.ceil(local_batch / accumulate)
    pixels = math.prod(image_shape)
    noise = 4 * samples * objective.model.latent_size * (global_batch + local_batch)
    return Need(
        parameters=bytes_of([*objective.parameters(), *objective.buffers()]),
        gradients=trained,
        optimizer=trained * optimizer_states(optimizer, momentum),
        activations=activation_bytes(objective, micro, image_shape, samples, precision),
        inputs=local_batch * pixels * (value_bytes + 4) + noise,  # as stored, then float32
        micro_batch=micro,
    )


def available_bytes(device: torch.device) -> int | None:
    """Memory that this process may still take: of the GPU, or of host and control group."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + idle
    if device.type != "cpu":
        return None
    return int(min(psutil.virtual_memory().available, *_control_group_room(_own_group())))


def _own_group() -> Path:
    """This process's control group (version 2), as Slurm and containers limit it."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    return _CGROUP / own.lstrip("/")


def _control_group_room(group: Path) -> list[float]:
    """Bytes left under the limit of a control group and of each one above it."""
    rooms = [math.inf]
    for folder in (group, *group.parents):
        try:
            limit = int((folder / "memory.max").read_text())  # "max" is no limit
            used = int((folder / "memory.current").read_text())
            stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):
            continue
        reclaimable = int(stat.get("inactive_file", 0))
        rooms.append(max(limit - used + reclaimable, 0))
    return rooms
