"""From a checkpoint to latents, figures of its reconstructions, and pictures.

Images are taken in parts of fixed size and place: the same latents and figures come out on any
number of processes.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.order import World, derive_seed
from evaluation.images import Images
from evaluation.results.seeds import training_key
from evaluation.training import metrics_of, training_seconds
from vae_dist import draw, metrics
from vae_dist.draw import chunk_size
from vae_dist.run.trained import Run

FIGURES = ("recon", "recon_mean", "kl", "elbo", "nll", "ssim", "ssim11", "psnr", "mse")


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

    Training images are read in the order in which they lie; test images in chunks of their own
    order, as the noise of a chunk follows from its number. Part or chunk c belongs to process
    ``c % world.size``.

    Parameters
    ----------
    run : Run
    splits : dict
        ``train`` and ``test``.
    world : World
    seed : int
        Of the latents that the ELBO and the NLL draw.
    nll_samples : int
        Importance samples of each image; 0: no NLL.
    nll_images : int
        The NLL is measured on the first `nll_images` test images.

    Returns
    -------
    dict of str to numpy.ndarray
        ``GROUP/NAME``, one row an image, and ``GROUP/rows``, for `join_parts`; the groups are
        ``train``, ``test`` and ``nll``.
    """
    train, test = splits["train"], splits["test"]
    check_fit(run, train.shape)
    if run.values != train.values:
        raise UserError(f"{run.name}: trained on {run.values}; the data are {train.values}")
    found: dict[str, list[np.ndarray]] = {}

    def keep(group: str, rows: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        for name, values in {"rows": rows, **columns}.items():
            found.setdefault(f"{group}/{name}", []).append(values)

    for part in train.parts()[world.rank :: world.size]:
        rows, images = train.read(part)
        # Without labels, also for a conditional model: an embedding that was given the label
        # could not be scored by how well it predicts the label.
        keep("train", rows, {"mu": run.encode(images)[0]})
    size = chunk_size(test.shape)
    for chunk, start in list(enumerate(range(0, len(test), size)))[world.rank :: world.size]:
        rows = np.arange(start, min(start + size, len(test)))
        samples = nll_samples if start < nll_images else 0
        noise_seed = derive_seed(seed, "encode", chunk)
        columns = _measure(run, test.take(rows), test.labels[rows], noise_seed, samples)
        if "nll" in columns:
            keep("nll", rows, {"nll": columns.pop("nll")})
        keep("test", rows, columns)
    return {name: np.concatenate(values) for name, values in found.items()}


@torch.inference_mode()
def _measure(
    run: Run, pixels: np.ndarray, classes: np.ndarray, seed: int, nll_samples: int
) -> dict[str, np.ndarray]:
    """Latents and figures of a chunk of test images, as many at once as the device likes."""
    noise = draw.noise(len(pixels), max(1, nll_samples), run.latent_size, seed, run.device)
    size = draw.at_once(run.image_shape, run.device)
    found: dict[str, list[np.ndarray]] = {}
    for start in range(0, len(pixels), size):
        part = slice(start, start + size)
        images = run.values.to_float(torch.from_numpy(pixels[part]).to(run.device))
        labels = torch.from_numpy(classes[part]).to(run.device)
        for name, values in _figures(run, images, labels, noise[part], nll_samples).items():
            found.setdefault(name, []).append(_host(values))
    return {name: np.concatenate(values) for name, values in found.items()}


def _figures(
    run: Run, images: Tensor, labels: Tensor, noise: Tensor, nll_samples: int
) -> dict[str, Tensor]:
    """Latents and figures of images, which are encoded once."""
    objective = run.objective
    mu, logvar = posterior = objective.model.encode(images, None)
    if objective.model.num_classes:  # the figures of a conditional model are those with labels
        posterior = objective.model.encode(images, labels)
    terms = objective(images, noise[:, :1], labels, posterior=posterior)
    mean = objective(images, None, labels, posterior=posterior)
    picture = objective.mean_image(mean.logits)
    found = {
        "mu": mu,
        "logvar": logvar,
        "recon": terms.recon,
        "recon_mean": mean.recon,
        "kl": terms.kl,
        "kl_dim": mean.kl_dim,
        "elbo": -(terms.recon + terms.kl),
        "ssim": metrics.ssim(picture, images),
        "ssim11": metrics.ssim11(picture, images),
        "psnr": metrics.psnr(picture, images),
        "mse": metrics.mse(picture, images),
    }
    if nll_samples:
        # Images that are decoded at once: large ones one sample at a time.
        pixels = draw.pixels_at_once(run.device)
        at_once = max(1, min(8, pixels // (len(images) * math.prod(run.image_shape))))
        nll = metrics.iw_nll(objective, images, noise.split(at_once, dim=1), labels, posterior)
        found["nll"] = nll.float()
    return found


def check_fit(run: Run, shape: tuple[int, ...]) -> None:
    """Refuse a run that was trained on images of another shape."""
    if tuple(run.image_shape) != tuple(shape):
        have, want = ("x".join(map(str, s)) for s in (shape, run.image_shape))
        raise UserError(f"{run.name}: trained on images {want}, the data holds {have}")


def join_parts(parts: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """All processes' parts as one set of arrays, ``SPLIT/NAME``, in the order of the images."""
    joined: dict[str, np.ndarray] = {}
    for group in ("train", "test", "nll"):
        held = [part for part in parts if f"{group}/rows" in part]
        if not held:
            continue
        order = np.argsort(np.concatenate([part[f"{group}/rows"] for part in held]))
        for name in held[0]:
            if name.startswith(f"{group}/") and name != f"{group}/rows":
                target = name.replace("nll/", "test/", 1)
                joined[target] = np.concatenate([part[name] for part in held])[order]
    return joined


def run_figures(latents: dict[str, np.ndarray]) -> dict[str, float]:
    """Means over the test images of what `encode_part` measured."""
    return {
        name: float(latents[f"test/{name}"].mean(dtype=np.float64))
        for name in FIGURES
        if f"test/{name}" in latents
    }


def describe_run(run: Run, path: Path) -> dict[str, Any]:
    """What ``results.json`` says of a run's model, and of its training by the folder's record."""
    parameters = sum(p.numel() for p in run.objective.parameters() if p.requires_grad)
    return {
        "model": dict(run.config.get("model", {})),
        "num_parameters": parameters,
        "training_seconds": training_seconds(
            metrics_of(path), run.step, run.config.get("run", {}).get("batch_size")
        ),
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
    device = run.device
    generator = draw.generator(device, seed, "pictures")
    with torch.inference_mode():
        images = test.values.to_float(torch.from_numpy(test.take(originals)).to(device))
        labels = torch.from_numpy(test.labels[originals]).to(device)
        mu = draw.means(objective, images, labels)
        by_latent = torch.from_numpy(scale).to(device, mu.dtype)
        walks, latents = draw.traverse(objective, mu[0], by_latent, 10, 9, labels[:1])
        pairs = len(mu) // 2
        drawn = {
            "reconstruction": draw.images_of(objective, mu, labels),
            "samples": draw.sample(objective, 64, generator),
            "traversal": walks,
            "interpolation": draw.interpolate(
                objective, mu[:pairs], mu[pairs : 2 * pairs], 9, labels[:pairs]
            ),
        }
        found = {name: _host((part * 255).round().byte()) for name, part in drawn.items()}
    return found | {"traversal_latent": _host(latents)}


def _host(tensor: Tensor) -> np.ndarray:
    return tensor.cpu().numpy()
