"""A run's state to and from checkpoints, the 2018 program's included."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder
from vae_dist.models import import_article2018_state
from vae_dist.run.checkpoint import (
    CheckpointConfig,
    checkpoint_path,
    link,
    load_checkpoint,
    newest_checkpoint,
    prune,
    resolve_checkpoint,
    save_checkpoint,
)
from vae_dist.run.data import check_data, continue_on, data_of, describe_data
from vae_dist.train.ema import Average, split_average
from vae_dist.train.optim import set_rates
from vae_dist.train.start import initialise
from vae_dist.train.state import Counters, TrainState

NOISE = "philox4x32-10"
"""How noise and augmentation are drawn; checkpoints without this word are of an older way."""


def capture(state: TrainState) -> dict[str, Any]:
    """Everything beside the weights, as tensors and plain values; all processes must call this.

    Raises
    ------
    NonFiniteLoss
        If a loss since the last log was NaN or infinite: such a state is not worth keeping.
    """
    window = state.reduce(state.window)
    state.check_finite(window)
    scaler = state.accelerator.scaler
    return {
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "counters": dataclasses.asdict(state.counters),
        "best": state.best,
        "running": state.running.cpu(),
        "window": window.cpu(),
        "epoch_sums": state.reduce(state.epoch_sums).cpu(),
        "steps_per_epoch": state.steps_per_epoch,
        "total_steps": state.total_steps,
        "optimizer_type": state.settings.optim.optimizer,
        "order": state.order,
        "frozen": state.frozen,
        "noise": NOISE,
    }


def save(state: TrainState, folder: Path, config: CheckpointConfig, *, best: bool) -> Path:
    """Write a checkpoint and remove those that are not kept; all processes must call this.

    Returns
    -------
    Path
        The checkpoint's folder.

    Raises
    ------
    OSError
        If the disk is full. The former checkpoints stand.
    """
    counters = state.counters
    trainer = capture(state)
    if state.world.rank == 0:
        meta = {
            "step": counters.step,
            "epoch": counters.epoch + counters.step_in_epoch / state.steps_per_epoch,
            "world_size": state.world.size,
            "best": state.best,
            "data": state.trained_on,
        }
        try:
            weights = state.objective.state_dict()
            if state.average is not None:
                weights |= state.average.state_dict()
            target = save_checkpoint(folder, weights, trainer, meta)
        except OSError as error:
            raise OSError(
                error.errno,
                f"checkpoint of step {counters.step} not written ({error.strerror}); the former "
                "ones stand, free some space and go on with --resume auto",
                str(folder),
            ) from error
        if best:
            link(folder, "best", target)
        prune(folder, config)
    state.accelerator.wait_for_everyone()
    return checkpoint_path(folder, counters.step)


def restore(state: TrainState, checkpoints: Path, data: DataFolder) -> str:
    """Bring a fresh state to where ``--resume`` says, before `TrainState.wrap`.

    Parameters
    ----------
    state : TrainState
    checkpoints : Path
        The run's own ``checkpoints`` folder, which ``--resume auto`` looks into.
    data : DataFolder
        What the run is to go on with.

    Returns
    -------
    str
        One line that says what was found.

    Raises
    ------
    UserError
        If what ``--resume`` names is not there, not whole, or of another model or data.
    """
    resume = state.settings.run.resume
    state.trained_on = describe_data(data)
    if not resume:
        return _begin(state)
    if resume == "auto":
        checkpoint = newest_checkpoint(checkpoints)
        if checkpoint is None:
            return _begin(state) + " (--resume auto: no complete checkpoint yet)"
    elif resume.endswith((".pth.tar", ".pth", ".pt")):
        return _restore_article2018(state, Path(resume))
    else:
        checkpoint = resolve_checkpoint(Path(resume), which="last")
    weights, trainer, meta = load_checkpoint(checkpoint)
    trained_on = data_of(checkpoint)
    allow = state.settings.run.allow_other_data
    note = check_data(str(checkpoint), trained_on, data, allow=allow)
    state.trained_on = continue_on(trained_on, data)
    weights, average = split_average(weights)
    _load_weights(state, weights, checkpoint)
    _check_path(trainer, state, checkpoint)
    # Moments come from the checkpoint; rates and other options are those of the flags.
    fresh, base_lrs = state.optimizer.state_dict(), list(state.scheduler.base_lrs)
    state.optimizer.load_state_dict({**fresh, "state": trainer["optimizer"]["state"]})
    state.scheduler.load_state_dict(trainer["scheduler"])
    state.scheduler.base_lrs = base_lrs
    if trainer["scaler"] is not None and state.accelerator.scaler is not None:
        state.accelerator.scaler.load_state_dict(trainer["scaler"])
    state.counters = Counters(**trainer["counters"])
    set_rates(state.scheduler)
    state.best = trainer["best"]
    state.running = trainer["running"].to(state.device)
    if state.world.rank == 0:  # the sums are of all processes together
        state.window = trainer["window"].to(state.device)
        state.epoch_sums = trainer["epoch_sums"].to(state.device)
    told = f"resuming {checkpoint} at step {meta['step']}" + _new_plan(trainer, state)
    told += _restore_average(state, average)
    if note:
        told += f"; warning: {note}"
    if trainer.get("noise") != NOISE:
        told += (
            "; warning: an older version, whose noise this one cannot draw, wrote this checkpoint: "
            "the run goes on with noise of the same distribution, not with the same noise"
        )
    return told


def _begin(state: TrainState) -> str:
    start = state.settings.start
    if not start.init_from:
        return "starting afresh"
    line = initialise(state.objective, start, state.settings.model.model_type)
    if state.average is not None:
        state.average = Average(state.objective, state.average.decay)
    return line


def _restore_average(state: TrainState, average: dict[str, Tensor] | None) -> str:
    """Go on with the moving average; what to say where there is one on one side only."""
    if state.average is None:
        return "; warning: without its moving average: --ema is 0" if average else ""
    if average is None:
        state.average = Average(state.objective, state.average.decay)
        return "; its moving average begins here: the checkpoint has none"
    state.average.load(average)
    return ""


def _check_path(trainer: dict[str, Any], state: TrainState, checkpoint: Path) -> None:
    """Refuse settings under which the run would silently leave the path it was on."""
    if trainer["optimizer_type"] != state.settings.optim.optimizer:
        raise UserError(
            f"{checkpoint}: was made with --optimizer {trainer['optimizer_type']}, whose state "
            f"does not serve {state.settings.optim.optimizer}; resume with the same one"
        )
    if trainer.get("frozen", []) != state.frozen:
        raise UserError(
            f"{checkpoint}: was made with other parts frozen; resume with the same --freeze, or "
            "start another run with --init-from"
        )
    if trainer["steps_per_epoch"] != state.steps_per_epoch:
        raise UserError(
            f"{checkpoint}: was made with {trainer['steps_per_epoch']} steps an epoch, these data "
            f"and this --batch-size give {state.steps_per_epoch}; resume with the same ones"
        )
    if trainer["counters"]["step_in_epoch"]:
        changed = [k for k, v in state.order.items() if trainer["order"].get(k) != v]
        if changed:
            told = ", ".join(
                f"{k} {trainer['order'].get(k)} (now {state.order[k]})" for k in changed
            )
            raise UserError(
                f"{checkpoint}: lies in the middle of an epoch whose order follows from {told}; "
                "resume with the same, or from the end of an epoch"
            )


def _new_plan(trainer: dict[str, Any], state: TrainState) -> str:
    """What to say where a schedule stretches over another number of steps than before."""
    settings, former = state.settings, trainer.get("total_steps", state.total_steps)
    stretched = [
        flag
        for flag, moves in (
            ("--schedule cosine", settings.optim.schedule == "cosine"),
            (f"--kl-schedule {settings.loss.kl_schedule}", settings.loss.kl_schedule != "constant"),
        )
        if moves
    ]
    if former == state.total_steps or not stretched:
        return ""
    return (
        f"; warning: {' and '.join(stretched)} now stretch over {state.total_steps:,} steps instead "
        f"of {former:,}, so the run leaves the course it was on"
    )


def _load_weights(state: TrainState, weights: dict[str, Tensor], source: Path) -> None:
    try:
        state.objective.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{source}: holds other weights than --model-type {state.settings.model.model_type} "
            f"with these settings has ({reason[:300]})"
        ) from error


def _restore_article2018(state: TrainState, path: Path) -> str:
    """Take weights, optimizer and epoch of a 2018 ``.pth.tar``."""
    if not path.is_file():
        raise UserError(f"--resume {path}: no such file")
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or not {"epoch", "state_dict"} <= content.keys():
        raise UserError(f"--resume {path}: not a checkpoint of the 2018 program")
    weights = import_article2018_state(content["state_dict"], state.settings.model.model_type)
    _load_weights(state, {f"model.{name}": value for name, value in weights.items()}, path)
    moments = content.get("optimizer", {}).get("state", {})
    if moments and state.settings.optim.optimizer == "adam":  # same parameters, same order
        fresh = state.optimizer.state_dict()
        ordered = {
            i: moments[name]
            for i, name in enumerate(content["optimizer"]["param_groups"][0]["params"])
        }
        state.optimizer.load_state_dict({**fresh, "state": ordered})
    _restore_average(state, None)
    epoch = int(content["epoch"])
    steps = epoch * state.steps_per_epoch
    state.counters = Counters(epoch=epoch, step=steps)
    state.scheduler.last_epoch = steps
    set_rates(state.scheduler)
    return (
        f"resuming {path}, a checkpoint of the 2018 program, after epoch {epoch}; it does not say "
        "which images it was trained on, so that was not checked"
    )
