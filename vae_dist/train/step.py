"""One optimizer step: a pure function of the weights and of the counters."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import torch
from torch import Tensor

from data_pipeline.batch import Batch
from vae_dist.losses import kl_weight_at
from vae_dist.metrics import ssim
from vae_dist.train.readings import NonFiniteLoss
from vae_dist.train.state import TrainState


@dataclass(frozen=True)
class Measured:
    """What a step computed for the log.

    Attributes
    ----------
    sums : Tensor
        Over this process's images, in the order of `SUMS`, of which the last two may not be
        there; zeros where the step was skipped for its gradient.
    norm : Tensor or None
        The gradient norm.
    """

    sums: Tensor
    norm: Tensor | None


def train_step(
    state: TrainState, batch: Batch, *, measure: bool, with_ssim: bool = False
) -> Measured | None:
    """Forward, backward, update.

    Each image's loss is divided by the size of the global batch, and DDP's mean over processes
    is undone by the world size: gradients are those of one full batch, also where parts are
    uneven or empty.

    Parameters
    ----------
    state : TrainState
    batch : Batch
        This process's part, on the device; may hold no image.
    measure : bool
        Whether to compute the loss's value and the gradient norm, for the log. The gradient
        needs neither.
    with_ssim : bool
        Whether to compute SSIM too.

    Returns
    -------
    Measured or None
        What was computed for the log; always there if it was asked for.

    Raises
    ------
    NonFiniteLoss
        If more steps than ``--max-bad-steps`` had a gradient that is not finite.
    """
    settings, objective, accelerator = state.settings, state.objective, state.accelerator
    images = state.to_images(batch, augment=True)
    originals = state.to_images(batch, augment=False) if state.denoises else None
    noise = state.noise(batch)
    noise = noise.view(len(noise), settings.loss.importance_samples, objective.model.latent_size)
    weights = state.balance_weights()
    beta = kl_weight_at(settings.loss, state.counters.step, state.total_steps)
    state.kl_weight = beta if weights is None else weights[1]
    value = measure or not objective.gradient_suffices
    found: list[Tensor] = []  # sums of each part, in the order of SUMS
    checks: list[Tensor] = []
    parts = max(state.accumulate, -(-len(batch) // state.images_at_once))
    for part in range(parts):
        where = slice(len(batch) * part // parts, len(batch) * (part + 1) // parts)
        count = where.stop - where.start
        mine = [images, noise, batch.labels, *([] if originals is None else [originals])]
        if not count:  # no image here, yet this process takes part in every reduction
            mine = [_blank(t) for t in mine]
        elif parts > 1:
            mine = [t[where] for t in mine]
        x, eps, labels, *targets = mine
        share = state.world.size / batch.size if count else 0.0
        each = state.constant(len(x), share)
        wait = part < parts - 1 and state.world.size > 1
        with accelerator.no_sync(state.module) if wait else contextlib.nullcontext():
            given = [x, eps, labels, each, *targets]
            if state.graphs is None:
                terms, loss = state.compute(*given, *(weights or [beta]), value=value)
            elif weights is None:
                terms, loss = state.graphs(given, [beta], value=value)
            else:
                terms, loss = state.graphs([*given, *weights], [], value=value)
        checks.append(loss.detach().sum())
        if count and value:
            with torch.no_grad():
                one = state.constant(count, 1.0)
                columns = [loss, terms.recon, terms.kl, one]
                if with_ssim and settings.loss.of_pixels:
                    shown = objective.mean_image(terms.logits)
                    target = targets[0] if targets else x
                    columns += [ssim(shown, target, settings.loss.ssim_window_size), one]
                found.append(torch.stack(columns).sum(1, dtype=torch.float64))
    norm, good = _update(state, measure)
    if good:
        state.checks.append(checks[0] if parts == 1 else torch.stack(checks).sum())
    if not value:
        return None
    sums = torch.zeros_like(state.epoch_sums)
    if found and good:
        sums = sum(found[1:], found[0])
    state.add_sums(sums)
    return Measured(sums, norm)


def _apply(optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler | None) -> bool:
    """Update the weights; False where the fp16 scaler skipped the update.

    The scale falls after each skipped update and after no other: a fused optimizer is called
    always and skips by itself.
    """
    if scaler is None:
        optimizer.step()
        return True
    before = scaler.get_scale()
    scaler.step(optimizer)
    scaler.update()
    return scaler.get_scale() >= before


def _blank(like: Tensor) -> Tensor:
    return torch.zeros((1, *like.shape[1:]), dtype=like.dtype, device=like.device)


def _update(state: TrainState, measure: bool) -> tuple[Tensor | None, bool]:
    """The gradient norm, if it was computed, and whether the gradient was good to take."""
    accelerator, optimizer, counters = state.accelerator, state.optimizer, state.counters
    clip, allowed = state.settings.optim.grad_clip, state.settings.run.max_bad_steps
    norm = None
    if clip:
        norm = accelerator.clip_grad_norm_(state.parameters, clip)
    elif measure or allowed:
        if accelerator.scaler is not None:
            accelerator.unscale_gradients()
        gradients = [p.grad for p in state.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
    # Under fp16 the scaler skips overflows by itself. Gradients are reduced already, so all
    # processes see the same norm and decide alike.
    if allowed and norm is not None and accelerator.scaler is None and not norm.isfinite():
        _forget_gradients(state)
        counters.bad_steps += 1
        if counters.bad_steps > allowed:
            raise NonFiniteLoss(counters.step)
        return norm, False
    if _apply(optimizer, accelerator.scaler):
        state.scheduler.step()
        if state.average is not None:
            state.average.update(counters.updates)
    else:
        counters.skipped += 1
    _forget_gradients(state)
    return norm, True


def _forget_gradients(state: TrainState) -> None:
    for parameter in state.parameters:
        parameter.grad = None
