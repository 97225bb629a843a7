"""One optimizer step: a pure function of the weights and of the counters."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from data_pipeline.batch import Batch
from vae_dist.losses import kl_weight_at
from vae_dist.metrics import ssim
from vae_dist.train.state import NonFiniteLoss, TrainState


def train_step(
    state: TrainState, batch: Batch, *, measure: bool, with_ssim: bool = False
) -> Tensor | None:
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
        Whether to compute the gradient norm, for the log.
    with_ssim : bool
        Whether to compute SSIM, for the log.

    Returns
    -------
    Tensor or None
        The gradient norm, if it was measured.

    Raises
    ------
    NonFiniteLoss
        If more steps than ``--max-bad-steps`` had a gradient that is not finite.
    """
    settings, objective, accelerator = state.settings, state.objective, state.accelerator
    images = state.to_images(batch, augment=True)
    noise = state.noise(batch).unflatten(1, (-1, objective.model.latent_size))
    weights = state.balance_weights()
    beta = kl_weight_at(settings.loss, state.counters.step, state.total_steps)
    state.kl_weight = beta if weights is None else weights[1]
    if weights is not None:
        beta = 1.0  # the running means take the place of the fixed weights
    found: list[Tensor] = []  # sums of each part, in the order of SUMS
    parts = max(state.accumulate, -(-len(batch) // state.images_at_once))
    for part in range(parts):
        where = slice(len(batch) * part // parts, len(batch) * (part + 1) // parts)
        count = where.stop - where.start
        x, eps, labels = images, noise, batch.labels
        if not count:  # no image here, yet this process takes part in every reduction
            x, eps, labels = (_blank(t) for t in (images, noise, batch.labels))
        elif parts > 1:
            x, eps, labels = x[where], eps[where], labels[where]
        wait = part < parts - 1 and state.world.size > 1
        with accelerator.no_sync(state.module) if wait else contextlib.nullcontext():
            if settings.precision.compile_mode == "reduce-overhead":
                torch.compiler.cudagraph_mark_step_begin()
            terms = state.module(x, eps, labels)
            loss = objective.combine(terms, beta=beta, weights=weights)
            share = state.world.size / batch.size if count else 0.0
            each = state.constant(len(x), share)
            if accelerator.scaler is None:
                loss.backward(each)
            else:
                accelerator.backward((loss * each).sum())
        if count:
            with torch.no_grad():
                one = state.constant(count, 1.0)
                columns = [loss, terms["recon"], terms["kl"], one]
                if with_ssim:
                    shown = objective.mean_image(terms["logits"])
                    columns += [ssim(shown, x, settings.loss.ssim_window_size), one]
                found.append(torch.stack(columns).sum(1, dtype=torch.float64))
    sums = sum(found[1:], found[0]) if found else torch.zeros_like(state.window)
    return _update(state, sums, measure)


def _apply(optimizer: Any, scaler: torch.amp.GradScaler | None) -> bool:
    """Update the weights; False where the fp16 scaler skipped the update.

    The scale falls after each skipped update and after no other. Accelerate's own word asks
    whether the optimizer was called, and a fused one is called always and skips by itself.
    """
    before = 0.0 if scaler is None else scaler.get_scale()
    optimizer.step()
    return scaler is None or scaler.get_scale() >= before


def _blank(like: Tensor) -> Tensor:
    return torch.zeros((1, *like.shape[1:]), dtype=like.dtype, device=like.device)


def _update(state: TrainState, sums: Tensor, measure: bool) -> Tensor | None:
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
        optimizer.zero_grad(set_to_none=True)
        counters.bad_steps += 1
        if counters.bad_steps > allowed:
            raise NonFiniteLoss(counters.step)
        return norm
    if _apply(optimizer, accelerator.scaler):
        state.scheduler.step()
        if state.average is not None:
            state.average.update(counters.updates)
    else:
        counters.skipped += 1
    optimizer.zero_grad(set_to_none=True)
    state.add_sums(sums)
    return norm
