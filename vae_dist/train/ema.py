"""An exponential moving average of the weights (``--ema``)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from vae_dist.objective import Objective

PREFIX = "ema."
"""Of the average's tensors, which lie beside the weights in ``model.safetensors``."""


class Average:
    """The average of a model's trained parameters, on its device, in their precision.

    After n updates the newest weights count ``1 - min(decay, (1 + n) / (10 + n))``: the first
    weights are soon forgotten. It follows from the weights alone, so it is the same on every
    process without any exchange.

    Parameters
    ----------
    objective : Objective
        Where its average begins, too.
    decay : float
        In (0, 1).
    """

    def __init__(self, objective: Objective, decay: float) -> None:
        self.decay = decay
        trained = {n: p for n, p in objective.named_parameters() if p.requires_grad}
        self.names, self.weights = list(trained), list(trained.values())
        self.averages = [p.detach().clone() for p in self.weights]

    @torch.no_grad()
    def update(self, updates: int) -> None:
        """Take in the weights, after the optimizer's step number `updates` (from 0)."""
        decay = min(self.decay, (1 + updates) / (10 + updates))
        torch._foreach_lerp_(self.averages, [p.detach() for p in self.weights], 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has its averages for weights, and its own ones again at the end."""
        own = [p.detach().clone() for p in self.weights]
        self._put(self.averages)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: list[Tensor]) -> None:
        torch._foreach_copy_([p.detach() for p in self.weights], values)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages, named for the checkpoint."""
        return {PREFIX + n: t for n, t in zip(self.names, self.averages, strict=True)}

    @torch.no_grad()
    def load(self, average: Mapping[str, Tensor]) -> None:
        """Go on from averages by parameter name."""
        for name, own in zip(self.names, self.averages, strict=True):
            own.copy_(average[name])


def split_average(
    state: Mapping[str, Tensor],
) -> tuple[dict[str, Tensor], dict[str, Tensor] | None]:
    """Weights of a checkpoint, and the same with the averages in their place (None: no average)."""
    weights = {n: t for n, t in state.items() if not n.startswith(PREFIX)}
    average = {n.removeprefix(PREFIX): t for n, t in state.items() if n.startswith(PREFIX)}
    return weights, {**weights, **average} if average else None
