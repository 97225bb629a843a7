"""A run's state to and from checkpoints, the 2018 program's included."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from data_pipeline.checks import flag_of
from data_pipeline.errors import UserError, files_of_user
from data_pipeline.folder import DataFolder
from vae_dist.mirror.fetch import local_copy
from vae_dist.run.article2018 import read_article2018
from vae_dist.run.checkpoint import (
    CheckpointConfig,
    checkpoint_path,
    link,
    load_checkpoint,
    save_checkpoint,
)
from vae_dist.run.data import check_data, continue_on, data_of, describe_data
from vae_dist.run.folder import RunFolder
from vae_dist.run.held import Held, check_path, checked
from vae_dist.run.which_checkpoint import own_checkpoint, prune, resolve_checkpoint
from vae_dist.train.accelerator import on_main
from vae_dist.train.counters import Counters
from vae_dist.train.ema import Average, split_average
from vae_dist.train.optim import set_rates
from vae_dist.train.start import initialise
from vae_dist.train.state import TrainState

NOISE = "philox4x32-10"
"""How noise and augmentation are drawn; checkpoints without this word are of an older way."""


def capture(state: TrainState) -> dict[str, Any]:
    """Everything beside the weights, as tensors and plain values; all processes must call this.

    Raises
    ------
    NonFiniteLoss
        If a loss since the last log was NaN or infinite: such a state is not worth keeping.
    """
    state.check_finite()
    scaler = state.accelerator.scaler
    return {
        "optimizer": state.optimizer.state_dict(),
        "scheduler": state.scheduler.state_dict(),
        "scaler": None if scaler is None else scaler.state_dict(),
        "counters": dataclasses.asdict(state.counters),
        "best": state.best,
        "best_by": state.settings.checkpoint.best_by,
        "running": state.running.cpu(),
        "epoch_sums": state.reduce(state.epoch_sums).cpu(),
        "steps_per_epoch": state.steps_per_epoch,
        "total_steps": state.total_steps,
        "optimizer_type": state.settings.optim.optimizer,
        "order": state.order,
        "frozen": state.frozen,
        "noise": NOISE,
        "augment": _augment(state),
    }


def save(
    state: TrainState,
    folder: RunFolder,
    config: CheckpointConfig,
    *,
    score: float | None = None,
    best: bool = False,
) -> Path:
    """Write a checkpoint and remove those that are not kept; all processes must call this.

    Parameters
    ----------
    state : TrainState
    folder : RunFolder
    config : CheckpointConfig
    score : float, optional
        Of the validation that has just been; less is better.
    best : bool
        Link this one as the best so far.

    Returns
    -------
    Path
        The checkpoint's folder.

    Raises
    ------
    UserError
        On all processes, if the disk is full. The former checkpoints stand.
    """
    counters = state.counters
    trainer = capture(state)
    meta = {
        "step": counters.step,
        "epoch": counters.epoch + counters.step_in_epoch / state.steps_per_epoch,
        "world_size": state.world.size,
        "best": state.best,
        "score": score,
        "best_by": state.settings.checkpoint.best_by,
        "data": state.trained_on,
    }

    def write() -> None:
        folder.check()
        with files_of_user(
            f"checkpoint of step {counters.step} not written",
            "the former ones stand, free some space and go on with --resume auto",
        ):
            weights = state.objective.state_dict()
            if state.average is not None:
                weights |= state.average.state_dict()
            target = save_checkpoint(folder.checkpoints, weights, trainer, meta)
            if best:
                link(folder.checkpoints, "best", target)
            prune(folder.checkpoints, config)
        folder.committed()

    on_main(state.world.rank == 0, write)
    return checkpoint_path(folder.checkpoints, counters.step)


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
    resume, passed = state.settings.here(state.settings.run.resume), ""
    state.trained_on = describe_data(data)
    if not resume:
        return _begin(state)
    if resume == "auto":
        checkpoint, passed = own_checkpoint(checkpoints)
        if checkpoint is None:
            return _begin(state) + " (--resume auto: no checkpoint yet)"
    elif resume.endswith((".pth.tar", ".pth", ".pt")):
        return _restore_article2018(state, local_copy(resume))
    else:
        checkpoint = resolve_checkpoint(local_copy(resume), which="last")
    weights, content, meta = load_checkpoint(checkpoint)
    held = checked(content, state, checkpoint)
    trained_on = data_of(checkpoint)
    allow = state.settings.run.allow_other_data
    note = check_data(str(checkpoint), trained_on, data, allow=allow)
    state.trained_on = continue_on(trained_on, data)
    weights, average = split_average(weights)
    _load_weights(state, weights, checkpoint)
    check_path(held, state, checkpoint)
    # Moments come from the checkpoint; rates and other options are those of the flags.
    fresh = state.optimizer.state_dict()
    state.optimizer.load_state_dict({**fresh, "state": held.optimizer["state"]})
    state.scheduler.last_epoch = held.scheduler["last_epoch"]
    state.scheduler._step_count = held.scheduler["_step_count"]
    if held.scaler is not None and state.accelerator.scaler is not None:
        state.accelerator.scaler.load_state_dict(held.scaler)
    state.counters, state.best = held.counters, held.best
    set_rates(state.scheduler)
    state.running = held.running.to(state.device)
    if state.world.rank == 0:  # the sums are of all processes together
        state.epoch_sums = held.epoch_sums.to(state.device)
    told = f"resuming {checkpoint} at step {meta.step}" + _new_plan(held, state)
    told += _restore_average(state, average) + _new_measure(held, state)
    told += _new_augment(held, state)
    older = ""
    if held.noise != NOISE:
        older = (
            "an older version, whose noise this one cannot draw, wrote this checkpoint: "
            "the run goes on with noise of the same distribution, not with the same noise"
        )
    return "; warning: ".join(filter(None, (told, passed, note, older)))


def _begin(state: TrainState) -> str:
    start = state.settings.start
    if not start.init_from:
        return "starting from the beginning"
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


def _new_plan(held: Held, state: TrainState) -> str:
    """What to say where a schedule stretches over another number of steps than before."""
    settings, former = state.settings, held.total_steps or state.total_steps
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


def _augment(state: TrainState) -> dict[str, Any]:
    settings = state.settings
    return settings.augment.deciding(settings.augmentations)


def _new_augment(held: Held, state: TrainState) -> str:
    """What to say where training images are augmented in another way than before."""
    now, former = _augment(state), held.augment
    if former is None or former == now:
        return ""
    changed = [name for name in {**now, **former} if former.get(name) != now.get(name)]
    name = changed[0]  # "augment" where the lists differ
    return (
        f"; warning: {flag_of(name)} is {now.get(name) or 'empty'} and was "
        f"{former.get(name) or 'empty'}, so the run leaves the course it was on"
    )


def _new_measure(held: Held, state: TrainState) -> str:
    """Forget the best score where another figure chooses the best now; what to say of it."""
    now = state.settings.checkpoint.best_by
    if held.best_by in ("", now) or held.best is None:
        return ""
    state.best = None
    state.counters.since_best = state.counters.since_reduction = 0
    return (
        f"; warning: --best-by is {now} and was {held.best_by}: the best checkpoint so far is not "
        f"compared, and the next validation becomes the best; Fix: --best-by {held.best_by} keeps it"
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
    held = read_article2018(path, state.settings.model.model_type)
    _load_weights(state, {f"model.{name}": value for name, value in held.weights.items()}, path)
    if held.moments and state.settings.optim.optimizer == "adam":  # same parameters, same order
        fresh = state.optimizer.state_dict()
        state.optimizer.load_state_dict({**fresh, "state": dict(enumerate(held.moments))})
    _restore_average(state, None)
    steps = held.epoch * state.steps_per_epoch
    state.counters = Counters(epoch=held.epoch, step=steps)
    state.scheduler.last_epoch = steps
    set_rates(state.scheduler)
    return (
        f"resuming {path}, a checkpoint of the 2018 program, after epoch {held.epoch}; it does not "
        "say which images it was trained on, so that was not checked"
    )
