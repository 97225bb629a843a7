"""Features that samples and reconstructions are compared with test images by: FID and KID."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.order import derive_seed
from evaluation.encode import check_fit
from evaluation.images import Images
from evaluation.measures.distances import SUBSETS, frechet_distance, kernel_distance
from evaluation.results.blanks import DISTANCES, blank
from evaluation.sampling import rows_of
from evaluation.settings import EvaluateConfig
from vae_dist import draw
from vae_dist.run.load import load_run
from vae_dist.run.tensor_files import load_weights, read_torch
from vae_dist.run.trained import Run

MOST_IMAGES = 10_000
_INCEPTION_SIZE, _INCEPTION_IMAGES = 299, 16  # pixels a side; images at once


@dataclass(frozen=True)
class Features:
    """A network that makes features of images.

    Attributes
    ----------
    name : str
        What they are, for the notes.
    key : str
        Hash of what they follow from.
    network : callable
        Images (n, C, H, W), float32 in [0, 1], to features (n, d), on the device of the models.
    at_once : int
        Images at a time.
    """

    name: str
    key: str
    network: Callable[[Tensor], Tensor]
    at_once: int

    @torch.inference_mode()
    def of(self, images: Tensor) -> np.ndarray:
        """Features (n, d) of images."""
        parts = [self.network(part).cpu().numpy() for part in images.split(self.at_once)]
        return np.concatenate(parts)


def open_features(
    config: EvaluateConfig, shape: tuple[int, int, int], device: str
) -> Features | None:
    """The features that ``--fid-features`` names: mu of a run, or Inception v3 with given weights.

    Raises
    ------
    UserError
        If there is neither, or they do not take images of this shape.
    """
    path = config.fid_features
    if path is None:
        return None
    if path.suffix in (".safetensors", ".pth", ".pt"):
        return _inception(path, shape, device)
    run = load_run(path, device, config.which, allow_code=config.allow_code)
    check_fit(run, shape)
    name = f"mu of {run}, {run.latent_size} features, weights {run.content_hash[:12]}"

    def network(images: Tensor) -> Tensor:
        return run.objective.model.encode(images, None)[0]

    return Features(name, run.content_hash, network, draw.chunk_size(shape))


def _inception(path: Path, shape: tuple[int, int, int], device: str) -> Features:
    """torchvision's Inception v3 with weights of a file; 2,048 features."""
    from torchvision.models import inception_v3

    if shape[0] not in (1, 3):
        raise UserError(f"--fid-features {path}: Inception takes grey or RGB images, not {shape}")
    with files_of_user(f"--fid-features {path}: cannot be read"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        weights = load_weights(path) if path.suffix == ".safetensors" else read_torch(path)
    with torch.device("meta"):
        model = inception_v3(weights=None, init_weights=False, aux_logits=False)
        model.fc = nn.Identity()
    used = {
        name: value for name, value in weights.items() if not name.startswith(("fc.", "AuxLogits."))
    }
    try:
        model.load_state_dict(used, assign=True)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(
            f"--fid-features {path}: not the weights of torchvision's inception_v3 "
            f"({' '.join(str(error).split())[:160]})"
        ) from error
    model.float().to(device).eval()
    mean, std = (
        torch.tensor(values, device=device)[:, None, None]
        for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )

    def network(images: Tensor) -> Tensor:
        size = (_INCEPTION_SIZE, _INCEPTION_SIZE)
        large = F.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
        features: Tensor = model((large.expand(-1, 3, -1, -1) - mean) / std)
        return features

    name = f"torchvision's Inception v3, 2048 features, file {digest[:12]}"
    return Features(name, digest, network, _INCEPTION_IMAGES)


class Distances:
    """Compares what runs draw with the test images, whose features are made once.

    Parameters
    ----------
    features : Features
    test : Images
        At most 10,000 of them are compared.
    seed : int
        Of the images that are compared, of the samples and of the kernel distance's subsets.
    """

    def __init__(self, features: Features, test: Images, seed: int) -> None:
        self.features, self.test, self.seed = features, test, seed
        self.rows = rows_of(len(test), MOST_IMAGES, seed, "distances")
        self._of_test: np.ndarray | None = None

    def figures(self, run: Run) -> Iterator[dict[str, Any]]:
        """Rows: both distances of samples and of reconstructions from z = mu."""
        common = {"split": "test", "seed": self.seed}
        if len(self.rows) < 2:
            yield from (blank(metric, "one test image alone", **common) for metric in DISTANCES)
            return
        if self._of_test is None:
            self._of_test = np.concatenate([self.features.of(part) for _, part in self._parts(run)])
        note = f"{len(self.rows)} images, features: {self.features.name}"
        for kind, made in (("samples", self._samples(run)), ("recon", self._reconstructions(run))):
            found = np.concatenate([self.features.of(part) for part in made])
            value = frechet_distance(found, self._of_test)
            yield {"metric": f"frechet_{kind}", "value": value, "note": note, **common}
            values = kernel_distance(found, self._of_test, self.seed)
            yield {
                "metric": f"kernel_{kind}",
                "value": float(np.mean(values)),
                "std": float(np.std(values, ddof=1)),
                "note": f"{note}; std over {SUBSETS} subsets",
                **common,
            }

    def _parts(self, run: Run) -> Iterator[tuple[np.ndarray, Tensor]]:
        """Rows of test images and the images, float32 in [0, 1], a chunk at a time."""
        size = draw.chunk_size(self.test.shape)
        for start in range(0, len(self.rows), size):
            rows = self.rows[start : start + size]
            stored = torch.from_numpy(self.test.take(rows)).to(run.device)
            yield rows, self.test.values.to_float(stored)

    @torch.inference_mode()
    def _reconstructions(self, run: Run) -> Iterator[Tensor]:
        for rows, images in self._parts(run):
            labels = torch.from_numpy(self.test.labels[rows]).to(run.device)
            yield draw.reconstruct(run.objective, images, labels)

    @torch.inference_mode()
    def _samples(self, run: Run) -> Iterator[Tensor]:
        size = draw.chunk_size(self.test.shape)
        for chunk, start in enumerate(range(0, len(self.rows), size)):
            seed = derive_seed(self.seed, "distances", chunk)
            count = min(size, len(self.rows) - start)
            yield draw.sample(run.objective, count, draw.generator(run.device, seed))
