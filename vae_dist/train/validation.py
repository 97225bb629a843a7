"""Validation: every image once, sums and counts reduced over the processes, divided once."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from data_pipeline.folder import DataFolder
from data_pipeline.load.base import Loader
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from data_pipeline.philox import Draws
from vae_dist.grids import tile
from vae_dist.metrics import psnr, ssim
from vae_dist.train.signals import Agreement
from vae_dist.train.state import TrainState

ACTIVE_VARIANCE = 0.01
"""A latent is active if the variance of its mean over the images is above this (Burda et al.,
Importance Weighted Autoencoders, 2016)."""

PANEL_IMAGES = 40

_SCALARS = ("loss", "recon", "kl", "ssim", "psnr", "recon_sampled", "images")
_OF_PIXELS = ("ssim", "psnr")


@torch.no_grad()
def validate(state: TrainState, loader: Loader, agreement: Agreement) -> dict[str, Any] | None:
    """Figures of the validation split, or None if the run was asked to stop meanwhile.

    ``loss``, ``recon`` and, of pixels, ``ssim`` and ``psnr`` are those of z = mu, as in the 2018
    program, with the full KL weight. ``recon_sampled`` and ``elbo`` are those of one sampled z, the same noise
    at every validation. All in nats an image, save SSIM (1) and PSNR (dB).

    Returns
    -------
    dict or None
        Also ``kl_dim`` (list of nats by latent) and ``active_units``.
    """
    objective, config = state.objective, state.settings.loss
    latents = objective.model.latent_size
    names = [name for name in _SCALARS if config.of_pixels or name not in _OF_PIXELS]
    scalars = torch.zeros(len(names), dtype=torch.float64, device=state.device)
    by_latent = torch.zeros(3, latents, dtype=torch.float64, device=state.device)
    draws = Draws(state.settings.run.seed, "validation", latents, state.device)
    objective.eval()
    for batch in loader.batches():
        if agreement.poll():
            objective.train()
            return None
        batch = batch.to(state.device, non_blocking=True)
        if not len(batch.labels):
            continue
        images = state.to_images(batch, augment=False)
        noise = draws(batch)[:, None]
        with state.accelerator.autocast():
            terms = objective(images, None, batch.labels)
            sampled = objective(images, noise, batch.labels)
        shown = objective.mean_image(terms.logits)
        per_image = {
            "loss": objective.combine(terms),
            "recon": terms.recon,
            "kl": sampled.kl,
            "recon_sampled": sampled.recon,
            "images": torch.ones_like(terms.recon),
        }
        if config.of_pixels:
            per_image["ssim"] = ssim(shown, images, config.ssim_window_size)
            per_image["psnr"] = psnr(shown, images)
        scalars += torch.stack([per_image[name].double().sum() for name in names])
        mu = terms.mu.double()
        by_latent += torch.stack([terms.kl_dim.double().sum(0), mu.sum(0), mu.square().sum(0)])
    objective.train()
    total, latent_sums = state.reduce(scalars), state.reduce(by_latent)
    count = total[names.index("images")]
    figures: dict[str, Any] = dict(zip(names, (total / count).tolist(), strict=True))
    figures["images"] = int(count)
    kl_dim, mean, square = latent_sums / count
    figures["elbo"] = -(figures["recon_sampled"] + figures["kl"])
    figures["kl_dim"] = kl_dim.tolist()
    figures["active_units"] = int(((square - mean.square()) > ACTIVE_VARIANCE).sum())
    return figures


@torch.no_grad()
def reconstruction_panel(state: TrainState, data: DataFolder) -> np.ndarray:
    """Originals over their reconstructions, side by side.

    Parameters
    ----------
    state : TrainState
    data : DataFolder
        The first 40 images of its validation split are shown.

    Returns
    -------
    numpy.ndarray
        uint8 (2 H, n W, 3).
    """
    objective = state.objective
    # The same images by either loader; memory would hold the whole split once more.
    config = dataclasses.replace(
        state.settings.loader, loader="stream", workers=0, data_device="cpu"
    )
    loader = make_loader(data, "val", config, World(), batch_size=PANEL_IMAGES, shuffle=False)
    batch = next(iter(loader.batches())).to(state.device)
    images = state.to_images(batch, augment=False)
    objective.eval()
    with state.accelerator.autocast():
        terms = objective(images, None, batch.labels)
    objective.train()
    panel = tile(torch.stack([images, objective.mean_image(terms.logits)]), gap=0)
    return panel if panel.ndim == 3 else np.repeat(panel[..., None], 3, axis=2)
