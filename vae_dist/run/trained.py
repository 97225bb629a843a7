"""A trained model as an object: encode, decode, reconstruct, sample, on arrays or tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder
from data_pipeline.values import Values
from vae_dist import draw
from vae_dist.objective import Objective
from vae_dist.run.data import check_data

Array = TypeVar("Array", np.ndarray, Tensor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model, rebuilt from files alone; made by `load_run`.

    What goes into a method as numpy arrays comes back as numpy arrays, tensors come back as
    tensors on the device that they came from. Everything is computed in float32 and in chunks
    of fixed size, so that any number of images may be given.

    Attributes
    ----------
    name : str
        Name of the run.
    objective : Objective
        The module with its weights, in evaluation mode.
    config : dict
        What ``config.json`` holds (for a 2018 checkpoint: what it implies).
    image_shape : tuple of int
        (C, H, W).
    num_classes : int
        Classes of the training data; 0 where it had no labels.
    step : int
        Optimizer steps the weights have seen.
    content_hash : str
        SHA-256 over the weights and what else decides the latents.
    path : Path
        The checkpoint they came from.
    averaged : bool
        Whether they are the moving average of a training with ``--ema``.
    values : Values
        Type of the training data's stored values, and which of them are black and white.

    Examples
    --------
    >>> run = load_run("runs/best")
    >>> mu, logvar = run.encode(images)  # uint8 (n, C, H, W)
    >>> again = run.decode(mu)  # float32 (n, C, H, W) in [0, 1]
    """

    name: str
    objective: Objective
    config: dict[str, Any]
    image_shape: tuple[int, int, int]
    num_classes: int
    step: int
    content_hash: str
    path: Path
    averaged: bool = False
    values: Values = dataclasses.field(default_factory=Values)

    def __str__(self) -> str:
        """Name, step, and which weights: for a line of text."""
        return f"{self.name}, step {self.step:,}" + (", averaged weights" * self.averaged)

    @property
    def device(self) -> torch.device:
        """Where the weights lie and everything is computed."""
        return next(self.objective.parameters()).device

    @property
    def scales(self) -> str:
        """Values of the training data's types that were black and white, as ``--scale`` takes them."""
        types = self.config.get("data", {}).get("types") or {self.values.dtype: self.values.scale}
        return ";".join(f"{name}={low:.17g},{high:.17g}" for name, (low, high) in types.items())

    @property
    def latent_size(self) -> int:
        """Number of latents."""
        return self.objective.model.latent_size

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Shape that one image's latents have inside the model: (z,), or (c, h, w) of a grid."""
        return self.objective.model.latent_shape

    def check_data(self, data: DataFolder, *, allow: bool) -> str:
        """Refuse data that the run does not belong to; see `vae_dist.run.data.check_data`."""
        return check_data(self.name, self.config.get("data", {}), data, allow=allow)

    def encode(self, images: Array, labels: Array | None = None) -> tuple[Array, Array]:
        """Mean and log-variance of q(z|x).

        Parameters
        ----------
        images : array or Tensor
            (n, C, H, W), or (n, H, W) where C is 1: uint8, or floats in [0, 1]. A run that
            was trained on uint16 or floats takes such values and the training data's scale;
            what lies outside is clipped, as it was in training.
        labels : array or Tensor, optional
            (n,), whole numbers; -1, or none at all, means unlabelled. Read by a conditional
            model alone.

        Returns
        -------
        mu, logvar : array or Tensor
            Each float32 (n, z).

        Raises
        ------
        UserError
            If the images are not of the shape or not of the scale that the run was trained on.
        """

        def work(x: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
            return self.objective.model.encode(self._scaled(x), y)

        mu, logvar = self._by_chunks(work, self._checked(images), labels)
        return mu, logvar

    def decode(self, z: Array, labels: Array | None = None) -> Array:
        """Mean images, float32 (n, C, H, W) in [0, 1], of latents (n, z)."""
        if z.ndim != 2 or z.shape[1] != self.latent_size:
            raise UserError(
                f"{self.name}: latents of shape {tuple(z.shape)}; give (n, {self.latent_size})"
            )

        def work(z: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
            return (draw.images_of(self.objective, z.float(), y),)

        (images,) = self._by_chunks(work, z, labels)
        return images

    def reconstruct(self, images: Array, labels: Array | None = None) -> Array:
        """Images from z = mu, float32 (n, C, H, W) in [0, 1]; takes what `encode` takes."""

        def work(x: Tensor, y: Tensor | None) -> tuple[Tensor, ...]:
            return (draw.reconstruct(self.objective, self._scaled(x), y),)

        (shown,) = self._by_chunks(work, self._checked(images), labels)
        return shown

    def sample(
        self, count: int = 64, labels: np.ndarray | None = None, *, seed: int = 0
    ) -> np.ndarray:
        """Mean images, float32 (count, C, H, W), of latents drawn from the prior.

        Parameters
        ----------
        count : int
        labels : array, optional
            (count,), for a conditional model; without them its classes are drawn in turn.
        seed : int
            The same seed gives the same images on the same kind of device.
        """
        with torch.no_grad():
            z, turn = draw.latents(self.objective, count, draw.generator(self.device, seed))
        if labels is None and turn is not None:
            labels = turn.cpu().numpy()
        return self.decode(z.cpu().numpy(), labels)

    def _checked(self, images: Array) -> Array:
        if images.ndim == 3 and self.image_shape[0] == 1:
            images = images[:, None]
        if tuple(images.shape[1:]) != self.image_shape:
            want = ", ".join(map(str, self.image_shape))
            raise UserError(
                f"{self.name}: images of shape {tuple(images.shape)}; the run was trained on "
                f"(n, {want})"
            )
        return images

    def _scaled(self, images: Tensor) -> Tensor:
        """Pixels as float32 in [0, 1]; what are no pixels as they are."""
        floats = images.is_floating_point()
        as_trained = floats
        if self.values.numpy.kind != "f":
            as_trained = not floats and (images.dtype == torch.uint8) == self.values.are_bytes
        if as_trained:
            return self.values.to_float(images)
        if not floats:
            raise UserError(
                f"{self.name}: images of {images.dtype}; give {self._wanted}, or floats in 0..1"
            )
        if images.numel() and not (float(images.min()) >= 0 and float(images.max()) <= 1):
            low, high = float(images.min()), float(images.max())
            raise UserError(
                f"{self.name}: values in {low:g} to {high:g}; give floats in 0..1, or {self._wanted}"
            )
        return images.float()

    @property
    def _wanted(self) -> str:
        return "uint8" if self.values.are_bytes else str(self.values)

    @torch.no_grad()
    def _by_chunks(
        self,
        work: Callable[[Tensor, Tensor | None], tuple[Tensor, ...]],
        values: Array,
        labels: Array | None,
    ) -> tuple[Array, ...]:
        if labels is not None and len(labels) != len(values):
            raise UserError(f"{self.name}: {len(values)} rows, but {len(labels)} labels")
        parts = [work(*chunk) for chunk in self._chunks(values, labels)]
        if isinstance(values, Tensor):
            return tuple(torch.cat(part).to(values.device) for part in zip(*parts, strict=True))
        return tuple(
            np.concatenate([each.cpu().numpy() for each in part])
            for part in zip(*parts, strict=True)
        )

    def _chunks(
        self, values: np.ndarray | Tensor, labels: np.ndarray | Tensor | None
    ) -> Iterator[tuple[Tensor, Tensor | None]]:
        size = draw.at_once(self.image_shape, self.device)
        for start in range(0, max(1, len(values)), size):
            part = slice(start, start + size)
            y = None if labels is None else self._here(labels[part]).long()
            yield self._here(values[part]), y

    def _here(self, values: np.ndarray | Tensor) -> Tensor:
        if isinstance(values, np.ndarray):
            values = np.ascontiguousarray(values)
            values = torch.from_numpy(values if values.flags.writeable else values.copy())
        return values.to(self.device)
