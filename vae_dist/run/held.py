"""What ``trainer.pt`` of a checkpoint holds, checked against the run that is to go on with it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.records import read_record
from vae_dist.train.counters import Counters
from vae_dist.train.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Held:
    """What ``trainer.pt`` holds; see `vae_dist.run.resume.capture`."""

    optimizer: dict[str, Any]
    scheduler: dict[str, Any]
    scaler: dict[str, int | float] | None
    counters: Counters
    best: float | None
    running: Any
    epoch_sums: Any
    steps_per_epoch: int
    optimizer_type: str
    order: dict[str, Any]
    total_steps: int | None = None
    noise: str = ""
    augment: dict[str, Any] | None = None
    best_by: str = ""  # of checkpoints that do not say it: as now
    frozen: Any = dataclasses.field(default_factory=list)


def checked(content: dict[str, Any], state: TrainState, checkpoint: Path) -> Held:
    """The content of ``trainer.pt``, its structure checked against this run's."""
    where = f"{checkpoint}/trainer.pt"
    held = read_record(Held, content, where, ignore_unknown=True)
    if min(dataclasses.astuple(held.counters)) < 0:
        raise UserError(f"{where}: damaged: counters are negative")
    for name in ("last_epoch", "_step_count"):
        count = held.scheduler.get(name)
        if not isinstance(count, int) or count < 0:
            raise UserError(f"{where}: damaged: scheduler.{name} is {count!r:.40}")
    for name in ("running", "epoch_sums"):
        _check_tensor(getattr(held, name), getattr(state, name).shape, f"{where}: {name}")
    entries = held.optimizer.get("state")
    if not isinstance(entries, dict):
        raise UserError(f"{where}: damaged: optimizer has no state")
    other = held.optimizer_type != state.settings.optim.optimizer or held.frozen != state.frozen
    if other:
        return held  # refused by `check_path`, which says why
    for number, entry in entries.items():
        if number not in range(len(state.parameters)) or not isinstance(entry, dict):
            raise UserError(f"{where}: damaged: optimizer has an entry {number!r:.40}")
        for name, value in entry.items():
            if isinstance(value, Tensor) and value.numel() != 1:
                shape = state.parameters[number].shape
                _check_tensor(value, shape, f"{where}: optimizer, {number}, {name}")
    return held


def _check_tensor(value: Any, shape: torch.Size, where: str) -> None:
    if not isinstance(value, Tensor) or value.shape != shape:
        raise UserError(f"{where}: damaged, or of another model: expected shape {tuple(shape)}")


def check_path(held: Held, state: TrainState, checkpoint: Path) -> None:
    """Refuse settings under which the run would silently leave the path it was on."""
    if held.optimizer_type != state.settings.optim.optimizer:
        raise UserError(
            f"{checkpoint}: was made with --optimizer {held.optimizer_type}, whose state "
            f"does not serve {state.settings.optim.optimizer}; resume with the same one"
        )
    if held.frozen != state.frozen:
        raise UserError(
            f"{checkpoint}: was made with other parts frozen; resume with the same --freeze, or "
            "start another run with --init-from"
        )
    if held.steps_per_epoch != state.steps_per_epoch:
        raise UserError(
            f"{checkpoint}: was made with {held.steps_per_epoch} steps an epoch, these data "
            f"and this --batch-size give {state.steps_per_epoch}; resume with the same ones"
        )
    if held.counters.step_in_epoch:
        changed = [k for k, v in state.order.items() if held.order.get(k) != v]
        if changed:
            told = ", ".join(f"{k} {held.order.get(k)} (now {state.order[k]})" for k in changed)
            raise UserError(
                f"{checkpoint}: lies in the middle of an epoch whose order follows from {told}; "
                "resume with the same, or from the end of an epoch"
            )
