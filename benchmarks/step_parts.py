"""One training step taken apart: its time by part, its calls, and the matrices alone."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.contenders import LATENTS
from data_pipeline.batch import Batch
from data_pipeline.folder import open_data
from data_pipeline.load.loader import LoaderConfig
from vae_dist.models import ModelConfig
from vae_dist.sinks import LogConfig
from vae_dist.train.settings import RunConfig, Settings
from vae_dist.train.signals import StopRequest
from vae_dist.train.step import train_step
from vae_dist.train.trainer import Trainer

WITHOUT_WORK = {"detach", "empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
PRODUCTS = {"mm", "addmm", "bmm", "baddbmm", "convolution", "convolution_backward"}
READS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "unique", "masked_select"}
"""Operations whose result the host waits for."""
STEPS = 40


class Counting(TorchDispatchMode):
    """Counts the calls below autograd.

    Attributes
    ----------
    calls : list of str
        Names of all.
    launches : int
        Those that compute something: neither views nor bare allocations.
    reads : list of str
        Those that the host waits for, copies to the CPU included.
    products : list
        Matrix products and convolutions, to be run again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.launches = 0
        self.reads: list[str] = []
        self.products: list[tuple[Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        result = func(*args, **(kwargs or {}))
        self.calls.append(name)
        if not (func.is_view or name in WITHOUT_WORK):
            self.launches += 1
        if name in READS or (name == "_to_copy" and _leaves(args[0], result)):
            self.reads.append(name)
        if name in PRODUCTS:
            self.products.append((func, args, kwargs or {}))
        return result


def _leaves(source: Tensor, result: Tensor) -> bool:
    return source.device.type != "cpu" and result.device.type == "cpu"


def take_apart(folder: Path, model: str, batch_size: int, threads: int) -> dict[str, Any]:
    """Measure one step of a training as it comes.

    Returns
    -------
    dict
        ``seconds`` a step; ``share`` of it by part; ``calls`` and ``launches`` a step; ``products``:
        seconds of the matrix products and convolutions alone. All but ``seconds`` are of the
        operations one by one, where a training repeats them as a CUDA graph (``graph``).
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory() as runs:
            settings = Settings(
                run=RunConfig(name="bench", runs_dir=str(runs), batch_size=batch_size),
                loader=LoaderConfig(loader="memory"),
                model=ModelConfig(model_type=model, latent_size=LATENTS),
                log=LogConfig(tensorboard=False),
            )
            trainer = Trainer(settings, open_data(str(folder)), StopRequest())
            return _measure(trainer)
    finally:
        torch.set_num_threads(before)


def _measure(trainer: Trainer) -> dict[str, Any]:
    state = trainer.state
    state.module.train()
    batches: Iterator[Batch] = iter(())

    def step() -> None:
        nonlocal batches
        batch = next(batches, None)
        if batch is None:
            batches = trainer.loaders.train.batches(state.counters.epoch)
            state.counters.epoch += 1
            batch = next(batches)
        train_step(state, batch.to(state.device), measure=False)
        state.counters.step += 1
        state.checks.clear()

    for _ in range(5):
        step()
    whole = statistics.median(_timed(step) for _ in range(STEPS))
    graph, state.graphs = state.graphs is not None, None
    step()
    with Counting() as counting:
        step()
    products = counting.products

    def multiply() -> None:
        for func, args, kwargs in products:
            func(*args, **kwargs)

    with torch.no_grad():
        multiply()
        alone = statistics.median(_timed(multiply) for _ in range(STEPS))
    return {
        "model": trainer.settings.model.model_type,
        "batch_size": trainer.settings.run.batch_size,
        "seconds": whole,
        "graph": graph,
        "products_seconds": alone,
        "share": _shares(state, step),
        "calls": len(counting.calls),
        "launches": counting.launches,
        "reads": counting.reads,
    }


def _timed(work: Callable[[], None]) -> float:
    begun = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begun


def _shares(state: Any, step: Callable[[], None]) -> dict[str, float]:
    """Share of a step's time by part, on the host's clock."""
    spent: dict[str, float] = {}
    places = {
        "images": (state, "to_images"),
        "noise": (state, "noise"),
        "forward": (state.module, "forward"),
        "loss": (state.objective, "combine"),
        "backward": (Tensor, "backward"),
        "update": (state.optimizer, "step"),
        "schedule": (state.scheduler, "step"),
        "sums": (state, "add_sums"),
    }
    kept = {}
    for part, (owner, name) in places.items():
        plain = getattr(owner, name)
        kept[part] = plain, name in vars(owner)

        def timed(*args: Any, plain: Any = plain, part: str = part, **kwargs: Any) -> Any:
            begun = time.perf_counter()
            try:
                return plain(*args, **kwargs)
            finally:
                spent[part] = spent.get(part, 0.0) + time.perf_counter() - begun

        setattr(owner, name, timed)
    try:
        total = sum(_timed(step) for _ in range(STEPS))
    finally:
        for part, (owner, name) in places.items():
            plain, own = kept[part]
            if own:
                setattr(owner, name, plain)
            else:
                delattr(owner, name)
    shares = {part: seconds / total for part, seconds in spent.items()}
    return shares | {"rest": 1 - sum(shares.values())}
