"""Whole trainings on this launch's processes, for `benchmarks.train`: one JSON object to a file.

``python -m torch.distributed.run --nproc-per-node N -m benchmarks.scaling DATA MODEL RUNS OUT STEPS
BATCH ...`` trains once for each batch size and then times the reduction of the gradients alone.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from benchmarks.contenders import LATENTS
from data_pipeline.folder import DataFolder, open_data
from vae_dist.models import ModelConfig
from vae_dist.sinks import LogConfig
from vae_dist.train.settings import RunConfig, Settings
from vae_dist.train.trainer import Trainer

REDUCTIONS = 50


def train(data: DataFolder, model: str, runs: Path, images: int, batch_size: int) -> Trainer:
    """One training of about that number of images, as it comes but for TensorBoard."""
    steps = min(2000, max(60, images // batch_size))
    trainer = Trainer(
        Settings(
            run=RunConfig(
                name=f"batch{batch_size}",
                runs_dir=str(runs),
                batch_size=batch_size,
                epochs=100_000,
                max_steps=steps,
            ),
            model=ModelConfig(model_type=model, latent_size=LATENTS),
            log=LogConfig(tensorboard=False),  # whose end is that of the process group
        ),
        data,
    )
    trainer.train()
    return trainer


def step_seconds(metrics: Path, batch_size: int) -> float:
    """Median of the log lines, without the first."""
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    rates = [r["images_per_second"] for r in records if r["split"] == "train"]
    return batch_size / statistics.median(rates[1:])


def reduction_seconds(elements: int) -> float:
    """Median of one all-reduce of this number of float32."""
    if not dist.is_initialized():
        return 0.0
    gradients, taken = torch.zeros(elements), []
    for _ in range(REDUCTIONS):
        begun = time.perf_counter()
        dist.all_reduce(gradients)
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken)


def main(folder: str, model: str, runs: str, out: str, images: str, *batch_sizes: str) -> None:
    """Train with each batch size."""
    data, seconds = open_data(folder), {}
    for size in map(int, batch_sizes):
        trainer = train(data, model, Path(runs), int(images), size)
        if trainer.is_main:  # it alone writes the log
            seconds[size] = step_seconds(trainer.folder.path / "metrics.jsonl", size)
    elements = sum(p.numel() for p in trainer.state.parameters)
    reduction = reduction_seconds(elements)
    if trainer.is_main:
        told = {"step": seconds, "reduction": reduction, "gradient_bytes": 4 * elements}
        Path(out).write_text(json.dumps(told))


if __name__ == "__main__":
    main(*sys.argv[1:])
