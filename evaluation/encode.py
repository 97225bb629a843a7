"""From a checkpoint to latents, figures of its reconstructions, and pictures.

Images are taken in chunks of fixed size and place, and the noise of a chunk follows from its
number: the same latents and figures come out on any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.order import World, derive_seed
from evaluation.results.seeds import training_key
from vae_dist import draw, metrics
from vae_dist.run.trained import Run

CHUNK = 500
FIGURES = ("recon", "recon_mean", "kl", "elbo", "nll", "ssim", "ssim11", "psnr", "mse")


@dataclass(frozen=True)
class Images:
    """Images of one split as `data_pipeline` holds them.

    Attributes
    ----------
    images : numpy.ndarray
        (n, C, H, W), uint8.
    labels, index : numpy.ndarray
        (n,), int64.
    """

    images: np.ndarray
    labels: np.ndarray
    index: np.ndarray

    def rows(self) -> np.ndarray:
        """Pixels (n, C * H * W), float32 in [0, 1]."""
        return self.images.reshape(len(self.images), -1).astype(np.float32) / 255


def encode_part(
    run: Run,
    splits: dict[str, Images],
    world: World,
    *,
    seed: int,
    nll_samples: int,
    nll_images: int,
) -> dict[str, np.ndarray]:
    """This process's part of a run's latents and figures.

    Parameters
    ----------
    run : Run
    splits : dict
        ``train`` and ``test``.
    world : World
        Chunk c belongs to process ``c % world.size``.
    seed : int
        Of the latents that the ELBO and the NLL draw.
    nll_samples : int
        Importance samples of each image; 0: no NLL.
    nll_images : int
        The NLL is measured on so many test images, the first ones.

    Returns
    -------
    dict of str to numpy.ndarray
        ``chunk/SPLIT/NNNNN/NAME``, for `join_parts`.
    """
    check_fit(run, splits["train"].images.shape[1:])
    found: dict[str, np.ndarray] = {}
    device = next(run.objective.parameters()).device
    with torch.inference_mode():
        for split, held in splits.items():
            for chunk, start in _chunks(len(held.images), world):
                part = slice(start, start + CHUNK)
                images = torch.from_numpy(held.images[part]).to(device).float() / 255
                labels = torch.from_numpy(held.labels[part]).to(device)
                key = f"chunk/{split}/{chunk:05d}"
                # Without labels, also for a conditional model: an embedding that was told the
                # label could not be scored by how well it predicts the label.
                mu, logvar = run.objective.model.encode(images, None)
                found[f"{key}/mu"] = _host(mu)
                found[f"{key}/logvar"] = _host(logvar)
                if split == "test":
                    samples = nll_samples if start < nll_images else 0
                    measured = _measure(
                        run, images, labels, derive_seed(seed, "encode", chunk), samples
                    )
                    found |= {f"{key}/{name}": _host(value) for name, value in measured.items()}
    return found


def _chunks(count: int, world: World) -> Iterator[tuple[int, int]]:
    for chunk, start in enumerate(range(0, count, CHUNK)):
        if chunk % world.size == world.rank:
            yield chunk, start


def _measure(
    run: Run, images: Tensor, labels: Tensor, seed: int, nll_samples: int
) -> dict[str, Tensor]:
    objective = run.objective
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(
        len(images), max(1, nll_samples), objective.model.latent_size, generator=generator
    )
    noise = noise.to(images.device)
    terms = objective(images, noise[:, :1], labels)
    mean = objective(images, None, labels)
    picture = objective.mean_image(mean["logits"])
    found = {
        "recon": terms["recon"],
        "recon_mean": mean["recon"],
        "kl": terms["kl"],
        "kl_dim": mean["kl_dim"],
        "elbo": -(terms["recon"] + terms["kl"]),
        "ssim": metrics.ssim(picture, images),
        "ssim11": metrics.ssim11(picture, images),
        "psnr": metrics.psnr(picture, images),
        "mse": metrics.mse(picture, images),
    }
    if nll_samples:
        nll = metrics.iw_nll(objective, images, noise.split(8, dim=1), labels)
        found["nll"] = nll.float()
    return found


def check_fit(run: Run, shape: tuple[int, ...]) -> None:
    """Refuse a run that was trained on images of another shape."""
    if tuple(run.image_shape) != tuple(shape):
        have, want = ("x".join(map(str, s)) for s in (shape, run.image_shape))
        raise UserError(f"{run.name}: trained on images {want}, the data holds {have}")


def join_parts(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """All processes' parts as one set of arrays, ``SPLIT/NAME``."""
    chunks: dict[str, dict[str, np.ndarray]] = {}
    for part in parts:
        for key, array in part.items():
            _, split, chunk, name = key.split("/")
            chunks.setdefault(f"{split}/{name}", {})[chunk] = array
    return {
        name: np.concatenate([by_chunk[chunk] for chunk in sorted(by_chunk)])
        for name, by_chunk in chunks.items()
    }


def run_figures(latents: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over the test images of what `encode_part` measured."""
    return {
        name: float(latents[f"test/{name}"].mean(dtype=np.float64))
        for name in FIGURES
        if f"test/{name}" in latents
    }


def describe_run(run: Run) -> dict[str, Any]:
    """What ``results.json`` says of a run's model."""
    parameters = sum(p.numel() for p in run.objective.parameters() if p.requires_grad)
    return {
        "model": dict(run.config.get("model", {})),
        "num_parameters": parameters,
        "seed": run.config.get("run", {}).get("seed"),
        "training": training_key(run.config),
    }


def pictures(
    run: Run, test: Images, originals: np.ndarray, scale: np.ndarray, *, seed: int
) -> dict[str, np.ndarray]:
    """Reconstructions, samples, traversals and interpolations for the report.

    Parameters
    ----------
    run : Run
    test : Images
    originals : numpy.ndarray
        Rows of the test images to reconstruct.
    scale : numpy.ndarray
        (z,), the standard deviation of the test images' mu by latent.
    seed : int

    Returns
    -------
    dict of str to numpy.ndarray
        ``reconstruction``, ``samples``, ``traversal``, ``traversal_latent``, ``interpolation``.
    """
    objective = run.objective
    device = next(objective.parameters()).device
    generator = torch.Generator(device).manual_seed(derive_seed(seed, "pictures"))
    with torch.inference_mode():
        images = torch.from_numpy(test.images[originals]).to(device).float() / 255
        labels = torch.from_numpy(test.labels[originals]).to(device)
        mu, _ = objective.model.encode(images, labels)
        rows = torch.from_numpy(np.argsort(-scale, kind="stable")[:10]).to(device)
        steps = torch.from_numpy(scale).to(device, mu.dtype)[rows, None] * torch.linspace(
            -3, 3, 9, device=device
        )
        pairs = len(mu) // 2
        drawn = {
            "reconstruction": draw.images_of(objective, mu, labels),
            "samples": draw.sample(objective, 64, generator),
            "traversal": draw.traverse(objective, mu[0], rows, steps, labels[:1]),
            "interpolation": draw.interpolate(
                objective, mu[:pairs], mu[pairs : 2 * pairs], 9, labels[:pairs]
            ),
        }
        found = {name: _host((part * 255).round().byte()) for name, part in drawn.items()}
    return found | {"traversal_latent": _host(rows)}


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
