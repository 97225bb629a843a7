"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR

from data_pipeline.checks import Above, AtLeast, Below, check_fields
from data_pipeline.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """The optimizer and its learning rate."""

    optimizer: Literal["adam", "adamw", "rmsprop", "sgd"] = "adam"
    """Update rule."""

    lr: Annotated[float, Above(0)] = 1e-3
    """Learning rate, before --lr-scaling and the schedule."""

    schedule: Literal["milestones", "cosine", "constant", "plateau"] = "milestones"
    """How the rate falls: by --lr-gamma at --m1 and --m2, along a cosine to --lr-min, not at all, or
    by --lr-gamma whenever validations no longer improve."""

    m1: Annotated[int, AtLeast(0)] = 5
    """First milestone, in epochs."""

    m2: int = 20
    """Second milestone, in epochs."""

    lr_gamma: float = 0.1
    """Factor at each milestone."""

    plateau_patience: Annotated[int, AtLeast(1)] = 5
    """plateau: lower the rate after this number of validations in a row without a new best, by
    --best-by."""

    lr_min: Annotated[float, AtLeast(0)] = 0.0
    """Where the cosine ends, and below what plateau does not go, as a fraction of the rate."""

    warmup_epochs: Annotated[float, AtLeast(0)] = 0.0
    """Epochs over which the rate first rises linearly from zero, under any schedule."""

    lr_scaling: Literal["none", "linear"] = "none"
    """linear: multiply the rate by --batch-size / --base-batch-size."""

    base_batch_size: Annotated[int, AtLeast(1)] = 512
    """Global batch for which --lr is meant, under --lr-scaling linear."""

    weight_decay: Annotated[float, AtLeast(0)] = 0.0
    """L2 penalty; decoupled for adamw."""

    momentum: Annotated[float, AtLeast(0)] = 0.0
    """Momentum of sgd and rmsprop."""

    fused: bool = True
    """One kernel for all parameters, where there is one (adam, adamw, sgd)."""

    grad_clip: Annotated[float, AtLeast(0)] = 0.0
    """Largest gradient norm; 0 leaves gradients as they are."""

    ema: Annotated[float, AtLeast(0), Below(1)] = 0.0
    """Keep a moving average of the weights that forgets by this factor a step, as in 0.999, for
    validation and all use of the run afterwards; 0: none."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.m2 < self.m1:
            raise UserError(f"--m2 {self.m2}: must not come before --m1 {self.m1}")


def scaled_lr(config: OptimConfig, batch_size: int) -> float:
    """Peak learning rate for a global batch."""
    if config.lr_scaling == "linear":
        return config.lr * batch_size / config.base_batch_size
    return config.lr


class Adam(optim.Adam):
    """Adam that calls its fused kernel, of this device, without torch's preparations.

    They take longer than the kernel does for small models. The first step, which makes the
    state, and what the fp16 scaler watches go torch's way; the bits are the same.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            states = [self.state[p] for p in params]
            known = params and all(states) and group["fused"] and not hasattr(self, "found_inf")
            if not known or closure is not None or len(self.param_groups) > 1:
                return super().step(closure)
            steps = [s["step"] for s in states]
            torch._foreach_add_(steps, 1)
            decoupled = group["decoupled_weight_decay"]
            kernel = torch._fused_adamw_ if decoupled else torch._fused_adam_
            beta1, beta2 = group["betas"]
            kernel(
                params,
                [p.grad for p in params],
                [s["exp_avg"] for s in states],
                [s["exp_avg_sq"] for s in states],
                [],
                steps,
                amsgrad=False,
                lr=group["lr"],
                beta1=beta1,
                beta2=beta2,
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                maximize=False,
            )
        return None

    step.hooked = True  # type: ignore[attr-defined]  # no profiler's label around each call


class AdamW(Adam, optim.AdamW):
    """As `Adam` is."""


def build_optimizer(
    params: Iterable[nn.Parameter], config: OptimConfig, batch_size: int
) -> optim.Optimizer:
    """The optimizer a config names.

    Parameters
    ----------
    params : iterable of Parameter
    config : OptimConfig
    batch_size : int
        The global batch, for ``--lr-scaling linear``.
    """
    options: dict[str, Any] = {
        "lr": scaled_lr(config, batch_size),
        "weight_decay": config.weight_decay,
    }
    if config.optimizer in ("sgd", "rmsprop"):
        options["momentum"] = config.momentum
    if config.fused and config.optimizer != "rmsprop":
        options["fused"] = True
    family: dict[str, type[optim.Optimizer]] = {
        "adam": Adam,
        "adamw": AdamW,
        "rmsprop": optim.RMSprop,
        "sgd": optim.SGD,
    }
    return family[config.optimizer](params, **options)


def lr_factor_at(
    config: OptimConfig, step: int, steps_per_epoch: int, total_steps: int, reductions: int = 0
) -> float:
    """Fraction of the peak rate used for optimizer step ``step``, which counts from 0.

    ``reductions`` counts how often the plateau schedule has lowered the rate.
    """
    warmup = config.warmup_epochs * steps_per_epoch
    rise = min(1.0, (step + 1) / (warmup + 1)) if warmup > 0 else 1.0
    if config.schedule == "milestones":
        passed = sum(step >= m * steps_per_epoch for m in (config.m1, config.m2))
        return rise * config.lr_gamma**passed
    if config.schedule == "cosine":
        done = min(1.0, max(0.0, (step - warmup) / max(1.0, total_steps - warmup)))
        fall = 0.5 * (1 + math.cos(math.pi * done))
        return rise * (config.lr_min + (1 - config.lr_min) * fall)
    if config.schedule == "plateau":
        return rise * max(config.lr_gamma**reductions, config.lr_min)
    return rise


def build_scheduler(
    optimizer: optim.Optimizer,
    config: OptimConfig,
    steps_per_epoch: int,
    total_steps: int,
    reductions: Callable[[], int] = lambda: 0,
) -> LambdaLR:
    """A plain scheduler, to be stepped once after each optimizer step (not a micro-batch).

    Parameters
    ----------
    optimizer : Optimizer
    config : OptimConfig
    steps_per_epoch, total_steps : int
        Counted in optimizer steps.
    reductions : callable
        How often the plateau schedule has lowered the rate by now.
    """
    return LambdaLR(
        optimizer,
        lambda step: lr_factor_at(config, step, steps_per_epoch, total_steps, reductions()),
    )


def set_rates(scheduler: LambdaLR) -> None:
    """Give the optimizer the rate that the schedule has at the step it stands at."""
    rates = [
        base * factor(scheduler.last_epoch)
        for base, factor in zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    ]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates
