"""How a training begins: from other weights, with parts of the model kept as they are."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.redact import shown
from vae_dist.mirror.fetch import local_copy
from vae_dist.objective import Objective
from vae_dist.run.article2018 import read_article2018
from vae_dist.run.checkpoint import load_model
from vae_dist.run.tensor_files import load_weights
from vae_dist.run.which_checkpoint import resolve_checkpoint
from vae_dist.train.ema import split_average

NAMED = 5
"""Number of tensors that a message names; the others are counted."""


@dataclass(kw_only=True)
class StartConfig:
    """How the weights begin; a resume goes on from its checkpoint instead."""

    init_from: str = ""
    """Start from the weights of a run, a checkpoint folder, a .safetensors file or a .pth.tar of
    the 2018 program, or the address of one; epochs and steps count from zero."""
    init_strict: bool = True
    """Refuse weights of which a part does not fit; False takes the parts that do."""
    freeze: str = ""
    """Do not train these parts: encoder, decoder, or patterns of parameter names as in
    model.fc1.*,prior.*; empty: train all."""

    def __post_init__(self) -> None:
        if not self.init_strict and not self.init_from:
            raise UserError("--init-strict False: has no effect without --init-from")


def initialise(objective: Objective, config: StartConfig, model_type: str) -> str:
    """Give a fresh model the weights that ``--init-from`` names.

    Parameters
    ----------
    objective : Objective
    config : StartConfig
    model_type : str
        The model's, to read a checkpoint of the 2018 program.

    Returns
    -------
    str
        One line that says what was taken, and what was not.

    Raises
    ------
    UserError
        If there are no such weights, or parts of them do not fit and ``init_strict`` is true.
    """
    source = f"--init-from {config.init_from}"
    given, step = _read(local_copy(config.init_from).expanduser(), source, model_type)
    own = objective.state_dict()
    fits = {n: t for n, t in given.items() if n in own and t.shape == own[n].shape}
    odd = [
        f"{name} {_shape(given[name])} (here {_shape(own[name])})"
        for name in given
        if name in own and name not in fits
    ]
    odd += [f"{name} is missing there" for name in own if name not in given]
    odd += [f"{name} is not in this model" for name in given if name not in own]
    if not fits:
        raise UserError(f"{source}: no part of it fits this model ({_some(odd)})")
    if odd and config.init_strict:
        raise UserError(
            f"{source}: {len(odd)} parts do not fit: {_some(odd)}; "
            "--init-strict False takes the others"
        )
    objective.load_state_dict(fits, strict=False)
    line = f"starting from the weights of {shown(config.init_from)}{step}, counters at zero"
    return line + (
        f"; {len(fits)} of {len(own)} parts taken, not these: {_some(odd)}" if odd else ""
    )


def _read(path: Path, source: str, model_type: str) -> tuple[dict[str, Tensor], str]:
    """Weights by name, and a word on which."""
    if not path.exists():
        raise UserError(f"{source}: no such file or folder")
    if path.is_dir() and (path / "model.safetensors").is_file() and not _is_run(path):
        path = path / "model.safetensors"
    if path.is_dir():
        checkpoint = resolve_checkpoint(path)
        weights, meta = load_model(checkpoint)
        weights, average = split_average(weights)
        words = f", step {meta.step:,}" + (", averaged" if average else "")
        return average or weights, words
    with files_of_user(f"{source}: cannot be read"):
        if path.suffix == ".safetensors":
            weights, average = split_average(load_weights(path))
            return average or weights, ""
    weights = read_article2018(path, model_type).weights
    return {f"model.{name}": value for name, value in weights.items()}, ""


def _is_run(path: Path) -> bool:
    return (path / "meta.json").is_file() or (path / "checkpoints").is_dir()


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(odd: list[str]) -> str:
    more = len(odd) - NAMED
    return ", ".join(odd[:NAMED]) + (f" and {more} more" if more > 0 else "")


def freeze(objective: Objective, what: str) -> list[str]:
    """Take parameters out of the training; returns their names.

    ``encoder`` is every parameter that mu or logvar depend on, ``decoder`` every one that the
    decoded image depends on: found by a backward pass, so that it holds for any model.

    Raises
    ------
    UserError
        If nothing matches, or nothing is left to train.
    """
    names: set[str] = set()
    parameters = dict(objective.named_parameters())
    for word in filter(None, (word.strip() for word in what.split(","))):
        if word in ("encoder", "decoder"):
            found = _reached(objective, word)
        else:
            found = {name for name in parameters if fnmatchcase(name, word)}
        if not found:
            some = ", ".join(list(parameters)[:NAMED])
            raise UserError(f"--freeze {word}: no such part; names are {some} …")
        names |= found
    for name in names:
        parameters[name].requires_grad_(False)
    if names and not any(p.requires_grad for p in parameters.values()):
        raise UserError(f"--freeze {what}: leaves nothing to train")
    return sorted(names)


def _reached(objective: Objective, part: str) -> set[str]:
    """Names of the parameters that a part's output depends on."""
    model = objective.model
    device = next(objective.parameters()).device
    training = objective.training
    objective.eval()
    if part == "encoder":
        mu, logvar = model.encode(torch.zeros(1, *model.image_shape, device=device))
        output = mu.sum() + logvar.sum()
    else:
        output = model.decode(torch.zeros(1, model.latent_size, device=device)).sum()
    objective.train(training)
    named = [(n, p) for n, p in objective.named_parameters() if p.requires_grad]
    grads = torch.autograd.grad(output, [p for _, p in named], allow_unused=True)
    return {name for (name, _), grad in zip(named, grads, strict=True) if grad is not None}
