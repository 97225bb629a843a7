"""How near the expected memory of a step is to what it takes, on a GPU.

    python -m benchmarks.memory

Prints a table in Markdown: bytes by `vae_dist.memory.estimate`, the allocator's peak over three
steps with Adam, and images a second of the step alone.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time

import torch

from vae_dist.losses import LossConfig
from vae_dist.memory.estimate import estimate
from vae_dist.models import ModelConfig, build_model
from vae_dist.objective import Objective
from vae_dist.train.accelerator import set_tf32
from vae_dist.train.optim import OptimConfig, build_optimizer

LATENTS = 64
STEPS = 10
CASES = (
    ("fc_conv", 28, 4096, "no", False),
    ("fc", 28, 4096, "no", False),
    ("conv", 28, 4096, "no", False),
    *(
        ("conv", size, batch, precision, again)
        for size, batch in ((128, 128), (256, 32))
        for precision in ("no", "bf16")
        for again in (False, True)
    ),
)
"""Model, pixels a side, images, precision, whether activations are checkpointed."""


def measure(
    model: str, size: int, batch: int, precision: str, again: bool
) -> tuple[int, int, float]:
    """Expected and taken bytes, and images a second."""
    device = torch.device("cuda", 0)
    shape = (1, size, size) if size == 28 else (3, size, size)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    config = ModelConfig(model_type=model, latent_size=LATENTS, checkpoint_activations=again)
    objective = Objective(build_model(config, shape, 10), LossConfig()).to(device)
    need = estimate(
        objective, image_shape=shape, local_batch=batch, global_batch=batch, precision=precision
    )
    optimizer = build_optimizer(objective.parameters(), OptimConfig(), batch)
    pixels = torch.randint(0, 256, (batch, *shape), dtype=torch.uint8, device=device)
    noise = torch.randn(batch, 1, LATENTS, device=device)
    labels = torch.zeros(batch, dtype=torch.int64, device=device)

    def step() -> None:
        half = (
            torch.autocast("cuda", dtype=torch.bfloat16)
            if precision == "bf16"
            else contextlib.nullcontext()
        )
        with half:
            terms = objective(pixels.float() / 255, noise, labels, False)
        objective.combine(terms).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    torch.cuda.reset_peak_memory_stats()
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    taken = torch.cuda.max_memory_allocated() - before
    begun = time.perf_counter()
    for _ in range(STEPS):
        step()
    torch.cuda.synchronize()
    assert need.total is not None
    return need.total, taken, STEPS * batch / (time.perf_counter() - begun)


def main() -> int:
    """Print the table."""
    if not torch.cuda.is_available():
        print("benchmarks.memory: needs a GPU", file=sys.stderr)
        return 2
    set_tf32(True)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {LATENTS} latents\n")
    print("| model | pixels | images | precision | checkpointed | expected | taken | expected / taken | images/s |")  # fmt: skip
    print("| --- | ---: | ---: | --- | --- | ---: | ---: | ---: | ---: |")
    for model, size, batch, precision, again in CASES:
        expected, taken, speed = measure(model, size, batch, precision, again)
        print(
            f"| {model} | {size} | {batch:,} | {'fp32' if precision == 'no' else precision} | "
            f"{'yes' if again else 'no'} | {expected / 2**20:,.0f} MiB | {taken / 2**20:,.0f} MiB | "
            f"{expected / taken:.2f} | {speed:,.0f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
