"""``vae-dist sample``: pictures of what a trained model has learned, and its likelihood."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from data_pipeline.checks import OF_RUN, AtLeast, check_fields
from data_pipeline.errors import UserError, files_of_user
from data_pipeline.files import write_json
from launch.config import parse
from launch.progress import make_progress

if TYPE_CHECKING:
    from torch import Tensor

    from data_pipeline.progress import Progress
    from vae_dist.grids import Painter
    from vae_dist.run.trained import Run

DESCRIPTION = "Write samples, reconstructions, interpolations, traversals and more as PNG."
COMMON = ("run", "out", "data", "split", "which", "seed", "nll_samples", "nll_images", "device")
PLANE_IMAGES = 2000


@dataclass(kw_only=True)
class SampleConfig:
    """Which model, which images, and where the pictures go."""

    run: Annotated[Path, OF_RUN]
    """A run folder, a checkpoint folder or the address of one, or a .pth.tar of the 2018 program."""

    out: Path
    """Folder for the pictures."""

    data: str | None = None
    """Data folder of the images that are reconstructed; the run's own if not given."""

    allow_other_data: bool = False
    """Use images that the model was not trained for, another split of the same ones included."""

    which: Literal["best", "last"] = "best"
    """Which of a run's checkpoints."""

    split: Literal["train", "val", "test"] = "test"
    """Split that the images are taken from."""

    seed: int = 0
    """Everything random in the pictures follows from it."""

    nll_samples: Annotated[int, AtLeast(0)] = 0
    """Importance samples an image for the negative log-likelihood; 0: not computed."""

    nll_images: Annotated[int, AtLeast(0)] = 0
    """Images of the split it is computed on; 0 takes all."""

    allow_code: bool = False
    """Import the module that a run's config.json names, where its model is code of your own
    (--model-type MODULE:CLASS): only for runs that you trust."""

    device: str = "auto"
    """auto, cpu or cuda."""

    def __post_init__(self) -> None:
        check_fields(self)


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist sample ARGV``; returns the exit code."""
    (config,) = parse("sample", [SampleConfig], argv, DESCRIPTION, COMMON)
    from vae_dist.grids import Painter
    from vae_dist.run.load import load_run

    run = load_run(
        config.run, device=config.device, which=config.which, allow_code=config.allow_code
    )
    if not run.values.are_pixels:
        raise UserError(f"--run {config.run}: was trained on data that are no pixels: no pictures")
    painter = Painter(run.objective, config.seed, run.values)
    images, labels = _images(config, run)
    with files_of_user(f"--out {config.out}: cannot be written", "name another folder"):
        config.out.mkdir(parents=True, exist_ok=True)
        names = paint(painter, images, labels, config.out)
    print(f"{run}: {', '.join(names)} in {config.out}")
    if config.nll_samples:
        with make_progress() as progress:
            record = measure(painter, images, labels, config, progress)
        record = {"run": run.name, "step": run.step, "content_hash": run.content_hash, **record}
        with files_of_user(f"{config.out}/nll.json: cannot be written", "free space there"):
            write_json(config.out / "nll.json", record)
        print(
            f"negative log-likelihood {record['nll']:.2f} +- {record['nll_error']:.2f} nats an"
            f" image ({record['images']:,} images, {record['samples']:,} samples);"
            f" ELBO {record['elbo']:.2f}"
        )
    return 0


def paint(painter: Painter, images: Tensor, labels: Tensor, out: Path) -> list[str]:
    """Write every picture that fits the model and the stored images; returns file names."""
    from vae_dist.grids import write_png

    images = painter.take(images[:PLANE_IMAGES])
    labels = labels[:PLANE_IMAGES].to(painter.device)
    few, their = images[:40], labels[:40]
    grids = {
        "samples": painter.samples(),
        "reconstructions": painter.reconstructions(few, their),
        "interpolations": painter.interpolations(few[:20], their[:20]),
        "traversals": painter.traversals(images, labels),
        "manifold": painter.manifold(images, labels),
    }
    if painter.model.num_classes:
        grids["classes"] = painter.classes()
    if (rows := len(grids["traversals"])) < painter.model.latent_size:
        print(f"traversals.png: the {rows} most active of {painter.model.latent_size:,} latents")
    for name, grid in grids.items():
        write_png(out / f"{name}.png", grid)
    return [f"{name}.png" for name in grids]


def measure(
    painter: Painter, images: Tensor, labels: Tensor, config: SampleConfig, progress: Progress
) -> dict[str, Any]:
    """Importance-weighted negative log-likelihood, with the standard error over images."""
    count = min(config.nll_images or len(images), len(images))
    nll: list[float] = []
    bound: list[float] = []
    for of_image in painter.nll(images[:count], labels[:count], config.nll_samples):
        nll.append(of_image[0])
        bound.append(of_image[1])
        progress.advance("negative log-likelihood", len(nll), count)
    spread = statistics.stdev(nll) if count > 1 else 0.0
    return {
        "split": config.split,
        "images": count,
        "samples": config.nll_samples,
        "seed": config.seed,
        "likelihood": painter.objective.config.image_loss_type,
        "nll": statistics.fmean(nll),
        "nll_error": spread / math.sqrt(count),
        "elbo": -statistics.fmean(bound),
    }


def _images(config: SampleConfig, run: Run) -> tuple[Tensor, Tensor]:
    import torch

    from data_pipeline.folder import open_data

    path = config.data or run.config.get("data", {}).get("path")
    if path is None:
        raise UserError(f"--run {config.run}: does not say which data it saw; give --data")
    data = open_data(path)
    if tuple(data.manifest.image_shape) != run.image_shape:
        raise UserError(
            f"{path}: images are {data.manifest.image_shape}, the model's {run.image_shape};"
            " give the --data it was trained on"
        )
    if data.manifest.values != run.values:
        raise UserError(f"{path}: holds {data.manifest.values}; the run saw {run.values}")
    if note := run.check_data(data, allow=config.allow_other_data):
        print(f"warning: {note}", file=sys.stderr)
    if config.split not in data.manifest.splits:
        have = ", ".join(data.manifest.splits)
        raise UserError(f"--split {config.split}: {path} has {have}")
    arrays = data.arrays(config.split)
    if not len(arrays.images):
        raise UserError(f"--split {config.split}: {path} has no image in it")
    return torch.from_numpy(arrays.images), torch.from_numpy(arrays.labels)
