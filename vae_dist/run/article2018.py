"""Checkpoints of the 2018 program, its ``.pth.tar`` files, read strictly."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.errors import UserError
from vae_dist.models import ModelConfig, article2018_model, build_model, import_article2018_state
from vae_dist.run.tensor_files import read_torch

IMAGE_SHAPE, NUM_CLASSES = (1, 28, 28), 10
LARGEST = 1e6
"""No weight of a trained model is larger; a changed bit of an exponent is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Article2018:
    """A checkpoint of the 2018 program.

    Attributes
    ----------
    epoch : int
        Epochs trained.
    model : ModelConfig
    weights : dict of str to Tensor
        As our model of that type names them.
    moments : list of dict
        Adam's state of each parameter, in their order; empty where the file has none.
    """

    epoch: int
    model: ModelConfig
    weights: dict[str, Tensor]
    moments: list[dict[str, Any]]


def read_article2018(path: Path, model_type: str | None = None) -> Article2018:
    """Read a ``.pth.tar``, checked name by name and number by number.

    Damage is found by the CRC-32 of a zip file. In torch's older format, which the 2018 program
    wrote, a cut file is found, and so are weights that are not finite or beyond `LARGEST`; another
    change within a number cannot be.

    Parameters
    ----------
    path : Path
    model_type : str, optional
        ``fc`` or ``fc_conv``, where one is asked for; else what the file holds.

    Raises
    ------
    UserError
        Names the file and the entry that is not as it should be.
    """
    content = read_torch(path)
    epoch, state = content.get("epoch"), content.get("state_dict")
    if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < 1 << 31:
        raise UserError(f"{path}: not a checkpoint of the 2018 program (epoch is {epoch!r:.40})")
    if not isinstance(state, Mapping) or not all(isinstance(name, str) for name in state):
        raise UserError(f"{path}: not a checkpoint of the 2018 program (no state_dict)")
    for name, value in state.items():
        _check_tensor(value, None, f"{path}: state_dict, {name}")
    try:
        held, latents = article2018_model(state)
        weights = import_article2018_state(state, model_type or held)
        model = ModelConfig(model_type=held, latent_size=latents)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    shapes = _shapes(model)
    for name, shape in shapes.items():
        _check_tensor(weights[name], shape, f"{path}: state_dict, {name}")
    moments = _moments(content.get("optimizer"), shapes, path)
    return Article2018(epoch=epoch, model=model, weights=weights, moments=moments)


def _shapes(model: ModelConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        built = build_model(model, IMAGE_SHAPE, NUM_CLASSES)
    return {name: parameter.shape for name, parameter in built.named_parameters()}


def _moments(optimizer: Any, shapes: dict[str, torch.Size], path: Path) -> list[dict[str, Any]]:
    """Adam's entries, one a parameter; the file numbers them as it likes."""
    if optimizer is None:
        return []
    try:
        state, (group,) = optimizer["state"], optimizer["param_groups"]
        if not state:
            return []
        entries = [state[number] for number in group["params"]]
        if len(entries) != len(shapes) or len(state) != len(shapes):
            raise ValueError(f"{len(state)} entries for {len(shapes)} parameters")
        kept = [{key: e[key] for key in ("step", "exp_avg", "exp_avg_sq")} for e in entries]
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: optimizer is not the state of Adam ({error!r:.80})") from error
    for entry, (name, shape) in zip(kept, shapes.items(), strict=True):
        where = f"{path}: optimizer, {name}"
        for key in ("exp_avg", "exp_avg_sq"):
            _check_tensor(entry[key], shape, f"{where}, {key}")
        if bool((entry["exp_avg_sq"] < 0).any()):
            raise UserError(f"{where}, exp_avg_sq: has negative values")
        step = entry["step"]
        if isinstance(step, Tensor) and step.numel() == 1:
            step = step.item()
        if isinstance(step, bool) or not isinstance(step, int | float) or not 0 <= step < 1 << 53:
            raise UserError(f"{where}, step: is {step!r:.40}, expected a number of steps")
    return kept


def _check_tensor(value: Any, shape: torch.Size | None, where: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point():
        raise UserError(f"{where}: is not a tensor of floating-point numbers")
    if shape is None:
        return
    if value.shape != shape:
        raise UserError(f"{where}: has the shape {tuple(value.shape)}, expected {tuple(shape)}")
    # A view with steps of 0 can claim any size.
    if value.layout != torch.strided or not value.is_contiguous():
        raise UserError(f"{where}: does not lie in one piece")
    if not bool((value.abs() <= LARGEST).all()):
        raise UserError(f"{where}: has values that are not finite, or beyond {LARGEST:g}")
