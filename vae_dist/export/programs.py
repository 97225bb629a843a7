"""Encoder and decoder as programs that run without this package: torch.export and ONNX.

Both take a batch of any size. The encoder takes pixels as float32 (n, C, H, W) in [0, 1] and gives
``mu`` and ``logvar``; the decoder takes ``z`` (n, z) and gives the mean image. Those of a
conditional run also take ``labels``, int64 (n,), -1 for unlabelled.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from data_pipeline.errors import UserError
from vae_dist.objective import Objective
from vae_dist.run.trained import Run

TOLERANCE = 1e-3
"""Larger differences from the run's own outputs are a fault of the export."""

Arrays = tuple[np.ndarray, ...]


class Encoder(nn.Module):
    """Pixels, and a conditional model's labels, to mu and logvar."""

    names = ("images", "mu", "logvar")

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.model = objective.model

    def forward(self, images: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return self.model.encode(images, labels)


class Decoder(nn.Module):
    """Latents, and a conditional model's labels, to the mean image."""

    names = ("z", "images")

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, z: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.objective.mean_image(self.objective.model.decode(z, labels))


def export_programs(run: Run, kind: str, folder: Path) -> dict[str, float]:
    """Write encoder and decoder, run both, and compare them with the run itself.

    Parameters
    ----------
    run : Run
        On the CPU.
    kind : str
        ``torch.export`` (``encoder.pt2``, ``decoder.pt2``) or ``onnx`` (``.onnx``).
    folder : Path
        Where to.

    Returns
    -------
    dict of str to float
        The largest absolute difference of each output.

    Raises
    ------
    RuntimeError
        If an output differs by more than `TOLERANCE`.
    """
    write = {"torch.export": _write_torch, "onnx": _write_onnx}[kind]
    found: dict[str, float] = {}
    for part, program in (("encoder", Encoder), ("decoder", Decoder)):
        module = program(run.objective).eval()
        with _quiet():
            again = write(module, _inputs(run, part, 2), folder / part)
        for count in (1, 2, 7):
            inputs = _inputs(run, part, count)
            with torch.no_grad():
                wanted = module(*inputs)
            outputs = again(inputs)
            names = program.names[1:]
            for name, want, have in zip(names, _tuple(wanted), outputs, strict=True):
                if have.shape != tuple(want.shape):
                    raise RuntimeError(f"{part}: {name} is {have.shape}, not {tuple(want.shape)}")
                key = "decoded" if part == "decoder" else name
                error = float(np.abs(have - want.numpy()).max())
                found[key] = max(found.get(key, 0.0), error)
    if not max(found.values()) <= TOLERANCE:
        raise RuntimeError(f"the exported programs differ from the run: {found}")
    return found


def _inputs(run: Run, part: str, count: int) -> tuple[Tensor, ...]:
    """Inputs to compare with, the same on every call."""
    generator = torch.Generator().manual_seed(count)
    if part == "encoder":
        first = torch.rand(count, *run.image_shape, generator=generator)
    else:
        first = torch.randn(count, run.latent_size, generator=generator)
    classes = run.objective.model.num_classes
    return (first, torch.arange(count) % classes) if classes else (first,)


def _tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _captured(module: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    batch = torch.export.Dim("batch", min=1)
    shapes = tuple({0: batch} for _ in inputs)
    return torch.export.export(module, inputs, dynamic_shapes=shapes)


def _write_torch(
    module: nn.Module, inputs: tuple[Tensor, ...], path: Path
) -> Callable[[tuple[Tensor, ...]], Arrays]:
    path = path.with_suffix(".pt2")
    torch.export.save(_captured(module, inputs), path)
    program = torch.export.load(path).module()

    def run(inputs: tuple[Tensor, ...]) -> Arrays:
        with torch.no_grad():
            return tuple(output.numpy() for output in _tuple(program(*inputs)))

    return run


def _write_onnx(
    module: nn.Module, inputs: tuple[Tensor, ...], path: Path
) -> Callable[[tuple[Tensor, ...]], Arrays]:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"--to onnx: needs {error.name}; Fix: pip install 'vae-dist[export]'"
        ) from None
    assert isinstance(module, Encoder | Decoder)
    path = path.with_suffix(".onnx")
    names = [module.names[0], "labels"][: len(inputs)]
    torch.onnx.export(
        _captured(module, inputs),
        f=path,
        input_names=names,
        output_names=list(module.names[1:]),
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(inputs: tuple[Tensor, ...]) -> Arrays:
        fed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return tuple(session.run(None, fed))

    return run


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch prints of its own progress; errors are raised all the same."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)
