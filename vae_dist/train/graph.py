"""Forward and backward of a step as one CUDA graph.

A small model's step is hundreds of kernels of a few microseconds, and to start them one by one
takes the host longer than to compute them takes the GPU. A graph starts all of them at once.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vae_dist.models import MODELS
from vae_dist.objective import Terms
from vae_dist.train.settings import Settings

WARM_CALLS = 3
"""Calls before one is captured: libraries choose their algorithms and take their memory then."""

Compute = Callable[..., tuple[Terms, Tensor]]
"""Forward and backward: of inputs and ``value`` the terms and each image's loss (n,)."""

Record = Callable[[Callable[[], Any]], tuple[Any, Callable[[], Any]]]
"""Does some work once and returns its result and what does it again, into the same tensors."""


def why_not(settings: Settings, world_size: int, device: torch.device) -> str | None:
    """Why a training's steps are no CUDA graphs; None where they are, unless recording fails."""
    precision, run = settings.precision, settings.run
    if precision.cuda_graph == "off":
        return "--cuda-graph off"
    if device.type != "cuda":
        return "this runs on the CPU"
    if precision.cuda_graph == "auto" and settings.model.model_type not in MODELS:
        return (
            "a model of your own may do what a graph does not repeat (--cuda-graph on: it does not)"
        )
    if world_size > 1:
        return "the gradients of several processes are reduced within the backward"
    if precision.mixed_precision == "fp16":
        return "the scale of fp16 is chosen on the host"
    if run.accumulate > 1 or settings.memory.find_batch_size:
        return "a step may have several micro-batches"
    if precision.compile and precision.compile_mode != "default":
        return f"--compile-mode {precision.compile_mode} makes its own"
    if precision.detect_anomaly:
        return "--detect-anomaly looks at each operation"
    return None


@dataclass
class Recorded:
    """A graph and the tensors that it reads and writes."""

    tensors: list[Tensor]
    numbers: list[Tensor]
    last: list[float]
    result: tuple[Terms, Tensor]
    gradients: list[Tensor | None]
    again: Callable[[], Any]


class StepGraphs:
    """Forward and backward, recorded once for each form of the inputs and then repeated.

    Gradients are those of the calls one by one. What a call returns is overwritten by the next.

    Parameters
    ----------
    compute : callable
        Takes tensors, then numbers as 0-d tensors, and ``value`` by name. Must read nothing back
        and depend on nothing else that changes but the parameters.
    parameters : list of Parameter
        Whose gradients it computes.
    record : callable, optional
        How to record; as a CUDA graph.
    """

    def __init__(
        self, compute: Compute, parameters: list[nn.Parameter], record: Record | None = None
    ) -> None:
        self.compute, self.parameters = compute, parameters
        self.record = record or CudaRecorder()
        self.refused = False
        self._recorded: dict[Any, Recorded] = {}

    def __call__(
        self, tensors: list[Tensor], numbers: list[float], *, value: bool
    ) -> tuple[Terms, Tensor]:
        """The terms and each image's loss, detached; gradients are in the parameters."""
        key = value, len(numbers), tuple((t.shape, t.stride(), t.dtype) for t in tensors)
        found = self._recorded.get(key)
        if found is None and not self.refused:
            try:
                found = self._recorded[key] = self._make(tensors, numbers, value)
            except RuntimeError as error:
                self._refuse(error)
        if found is None:
            self._forget()
            return self.compute(*tensors, *self._as_tensors(numbers, tensors), value=value)
        torch._foreach_copy_(found.tensors, tensors, True)
        for kept, last, number in zip(found.numbers, found.last, numbers, strict=True):
            if number != last:
                kept.fill_(number)
        found.last = numbers
        found.again()
        for parameter, gradient in zip(self.parameters, found.gradients, strict=True):
            parameter.grad = gradient
        return found.result

    def _make(self, tensors: list[Tensor], numbers: list[float], value: bool) -> Recorded:
        kept, as_tensors = [t.clone() for t in tensors], self._as_tensors(numbers, tensors)

        def work() -> tuple[Terms, Tensor]:
            self._forget()
            terms, loss = self.compute(*kept, *as_tensors, value=value)
            # A result with a history would keep this backward alive, and its stream with it.
            return Terms._make(t if t is None else t.detach() for t in terms), loss.detach()

        result, again = self.record(work)
        return Recorded(kept, as_tensors, numbers, result, [p.grad for p in self.parameters], again)

    def _refuse(self, error: RuntimeError) -> None:
        self.refused = True
        self._recorded.clear()
        why = str(error).strip().splitlines()[0]
        warnings.warn(
            f"a step cannot be recorded as a CUDA graph ({why}): going on without; --cuda-graph off "
            "does not try",
            stacklevel=2,
        )

    @staticmethod
    def _as_tensors(numbers: list[float], like: list[Tensor]) -> list[Tensor]:
        return [torch.full((), n, device=like[0].device) for n in numbers]

    def _forget(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None


class CudaRecorder:
    """Records work as CUDA graphs that share their memory, since they never run at once."""

    def __init__(self) -> None:
        self.pool: Any = None

    def __call__(self, work: Callable[[], Any]) -> tuple[Any, Callable[[], Any]]:
        """Do it some times, then capture it."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_CALLS):
                work()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads copy batches meanwhile, which is no part of the graph.
        with torch.cuda.graph(graph, pool=self.pool, capture_error_mode="thread_local"):
            result = work()
        self.pool = graph.pool()
        return result, graph.replay
