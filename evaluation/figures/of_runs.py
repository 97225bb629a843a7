"""Pictures of single runs: what they reconstruct, sample and learn."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from evaluation.figures import charts, grids
from evaluation.figures.style import Picture
from evaluation.measures.latents import MOST_LATENTS
from evaluation.results.folder import Folder

MOST_RUNS = 4  # runs with pictures of their own; the best ones where there are more

_QUANTITIES = (
    ("loss", "loss (nats an image)"),
    ("recon", "reconstruction (nats an image)"),
    ("kl", "KL (nats an image)"),
    ("ssim", "SSIM"),
)


def reconstructions(folder: Folder) -> Iterator[Picture]:
    """Test images above what the runs, and PCA of as many components, make of them."""
    originals = folder.artifacts.get("originals")
    found = folder.named("reconstruction")
    runs = [name for name in _runs(folder) if name in found]
    linear = [name for name in found if name.startswith("pca-") and name not in runs]
    if originals is None or not (runs or linear):
        return
    rows = [(name, found[name]) for name in runs]
    rows += [(f"PCA, {name[4:]} components", found[name]) for name in linear]
    if len(runs) == 1:
        rows[0] = (f"VAE, {_latents(folder, runs[0])} latents", found[runs[0]])
    caption = (
        "Test images and below them what is left of each after encoding and decoding; the VAE "
        f"from the mean of its latents.{_fewer(folder, runs)}"
    )
    yield Picture(
        "reconstructions",
        "Reconstructions under their originals",
        caption,
        lambda theme: grids.reconstructions(originals, rows, theme=theme),
    )


def samples(folder: Folder) -> Iterator[Picture]:
    """Images that each run draws from its prior."""
    found = folder.named("samples")
    for name in _runs(folder):
        if name in found:
            yield _sample_picture(folder, name, found[name])


def _sample_picture(folder: Folder, name: str, images: np.ndarray) -> Picture:
    caption = f"{len(images)} decoded draws from the prior of {name}, not chosen."
    return Picture(
        _file_name("samples", folder, name),
        f"Samples of {name}",
        caption,
        lambda theme: grids.samples(images, theme=theme, columns=16),
    )


def traversals(folder: Folder) -> Iterator[Picture]:
    """What each run decodes along its latents, one at a time."""
    found, latents = folder.named("traversal"), folder.named("traversal_latent")
    for name in _runs(folder):
        if name in found:
            codes = latents.get(name, np.arange(len(found[name])))
            yield _traversal_picture(folder, name, found[name], codes)


def _traversal_picture(
    folder: Folder, name: str, images: np.ndarray, latents: np.ndarray
) -> Picture:
    kl = {row.index: row.value for row in folder.rows("kl_by_latent", run=name)}
    names = [
        f"latent {i}" + (f", {kl[i]:.2f} nats" if kl.get(i) is not None else "")
        for i in (int(latent) for latent in latents)
    ]
    steps = np.linspace(-3, 3, images.shape[1])
    caption = (
        f"Each row moves one latent of {name} while the others stay, the most active latent on top; "
        "in nats, its KL from the prior, mean over the test images."
    )
    return Picture(
        _file_name("traversals", folder, name),
        f"Traversals of {name}",
        caption,
        lambda theme: grids.traversals(images, steps, names, theme=theme),
    )


def interpolations(folder: Folder) -> Iterator[Picture]:
    """What each run decodes between pairs of test images."""
    found = folder.named("interpolation")
    for name in _runs(folder):
        if name in found:
            yield _interpolation_picture(folder, name, found[name])


def _interpolation_picture(folder: Folder, name: str, images: np.ndarray) -> Picture:
    return Picture(
        _file_name("interpolations", folder, name),
        f"Interpolations of {name}",
        f"Straight lines between the latents of two test images, one a row, decoded by {name}.",
        lambda theme: grids.interpolations(images, theme=theme),
    )


def latents_used(folder: Folder) -> Iterator[Picture]:
    """The KL of every latent of the runs."""
    found = []
    for name in _runs(folder):
        rows = [row for row in folder.rows("kl_by_latent", run=name) if row.value is not None]
        if rows:
            found.append((name, np.sort([row.value or 0.0 for row in rows])[::-1]))
    if not found:
        return
    cut = ""
    if any(_latents(folder, name) > len(values) for name, values in found):
        cut = f" Of a run with more latents the {MOST_LATENTS} largest."
    yield Picture(
        "latents",
        "What each latent carries",
        "KL of each latent from the prior, mean over the test images, largest first; a latent near "
        f"0 is not used.{cut}" + _fewer(folder, [name for name, _ in found]),
        lambda theme: charts.latents(found, theme=theme),
    )


def training(folder: Folder) -> Iterator[Picture]:
    """The figures of the trainings by epoch."""
    series = [
        one
        for name in _runs(folder)
        for split in ("train", "val")
        for one in _series(name, split, folder.curves.get(name, []))
    ]
    quantities = [
        (key, label) for key, label in _QUANTITIES if any(key in s.values for s in series)
    ]
    if not quantities:
        return
    runs = list(dict.fromkeys(one.run for one in series))
    yield Picture(
        "training",
        "Training",
        "Records of metrics.jsonl. The axes do not show the steep start." + _fewer(folder, runs),
        lambda theme: charts.training_curves(series, quantities, theme=theme),
    )


def _series(run: str, split: str, records: list[dict[str, Any]]) -> list[charts.Series]:
    own = [
        record for record in records if record.get("split") == split and _is_number(record, "epoch")
    ]
    if not own:
        return []
    values = {}
    for key, _ in _QUANTITIES:
        if any(_is_number(record, key) for record in own):
            values[key] = np.array(
                [record[key] if _is_number(record, key) else np.nan for record in own], dtype=float
            )
    return [charts.Series(run, split, np.array([record["epoch"] for record in own]), values)]


def _is_number(record: dict[str, Any], key: str) -> bool:
    return isinstance(record.get(key), int | float)


def _runs(folder: Folder) -> list[str]:
    """Names of the runs that get pictures of their own, the best first."""
    ranked = [line["run"] for line in folder.board if line["run"] and line["method"] == "vae"]
    ranked += [run.name for run in folder.results.runs]
    return list(dict.fromkeys(ranked))[:MOST_RUNS]


def _fewer(folder: Folder, shown: list[str]) -> str:
    count = len(folder.results.runs)
    return f" The best {len(shown)} of {count} runs." if count > len(shown) > 0 else ""


def _file_name(kind: str, folder: Folder, run: str) -> str:
    return kind if len(folder.results.runs) == 1 else f"{kind}-{run}"


def _latents(folder: Folder, run: str) -> int:
    return next(info.latent_size for info in folder.results.runs if info.name == run)
