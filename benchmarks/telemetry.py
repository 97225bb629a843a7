"""What telemetry costs: training steps with the sampler and without it, turn by turn."""

from __future__ import annotations

import dataclasses
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any

import torch

from data_pipeline.checks import Above, AtLeast, check_fields
from data_pipeline.order import World
from vae_dist.losses import LossConfig
from vae_dist.models import ModelConfig, build_model
from vae_dist.objective import Objective
from vae_dist.telemetry.config import TelemetryConfig
from vae_dist.telemetry.sampler import Telemetry, make_telemetry


@dataclasses.dataclass(kw_only=True)
class TelemetryBenchConfig:
    """Measuring what telemetry costs a training step."""

    pairs: Annotated[int, AtLeast(1)] = 10
    """Turns with the sampler and without it."""
    turn_seconds: Annotated[float, Above(0)] = 3.0
    """Length of a turn."""
    batch_size: Annotated[int, AtLeast(1)] = 512
    """Images a step, of the 2018 article's fc_conv on 28x28."""

    def __post_init__(self) -> None:
        check_fields(self)


def measure(config: TelemetryBenchConfig, telemetry: TelemetryConfig) -> dict[str, Any]:
    """Time steps with and without telemetry.

    Parameters
    ----------
    config : TelemetryBenchConfig
    telemetry : TelemetryConfig
        What is measured: interval and device.

    Returns
    -------
    dict
        ``ratio``: step time with over without, the median over pairs of neighbouring turns
        of the ratio of their mean step times; ``ratio_quartiles``; ``cpu_ratio``: the same of
        the process's CPU time; ``cpu_share``: CPU time of the sampler's thread and of
        ``step()`` as a share of wall time, which other load on the machine hardly touches; and
        what they were measured on.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    objective = Objective(
        build_model(ModelConfig(model_type="fc_conv"), (1, 28, 28), 10), LossConfig()
    ).to(device)
    optimizer = torch.optim.Adam(objective.parameters())
    images = torch.rand(config.batch_size, 1, 28, 28, device=device)
    noise = torch.randn(config.batch_size, 1, 10, device=device)

    def step() -> None:
        loss = objective.combine(objective(images, noise)).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def turn(sampler: Telemetry) -> tuple[float, float]:
        """Mean seconds a step: on the wall's clock, and of all threads' CPU time."""
        with sampler:
            begin = last = time.perf_counter()
            spent = time.process_time()
            steps = 0
            while last - begin < config.turn_seconds:
                step()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                now = time.perf_counter()
                sampler.step(config.batch_size, now - last, 0.0)
                last, steps = now, steps + 1
            spent = time.process_time() - spent
        return (last - begin) / steps, spent / steps

    off = TelemetryConfig(telemetry_interval=0)
    for _ in range(5):
        step()
    ratios, cpu_ratios, without, shares, samples = [], [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(config.pairs):
            times = {}
            for name in ("on", "off") if pair % 2 else ("off", "on"):
                sampler = make_telemetry(
                    telemetry if name == "on" else off,
                    run_dir=Path(folder),
                    device=device,
                    world=World(),
                )
                times[name] = turn(sampler)
                if name == "on":
                    summary = sampler.summary()
                    shares.append(summary["sampler_cpu_share"] or 0.0)
                    samples.append(summary["sample_seconds"] or 0.0)
            ratios.append(times["on"][0] / times["off"][0])
            cpu_ratios.append(times["on"][1] / times["off"][1])
            without.append(times["off"][0])
    call = _call_seconds()
    seconds = statistics.median(without)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [quartiles[0], quartiles[2]],
        "cpu_ratio": statistics.median(cpu_ratios),
        "cpu_share": statistics.median(shares) + call / seconds,
        "sample_seconds": statistics.median(samples),
        "step_call_seconds": call,
        "step_seconds": seconds,
        "interval": telemetry.telemetry_interval,
        "pairs": config.pairs,
        "turn_seconds": config.turn_seconds,
        "batch_size": config.batch_size,
        "device": str(device),
        "machine": platform.platform(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }


def _call_seconds(calls: int = 20_000) -> float:
    """What one call of ``Telemetry.step`` takes."""
    sampler = make_telemetry(
        TelemetryConfig(telemetry_interval=0),
        run_dir=Path(),
        device=torch.device("cpu"),
        world=World(),
    )
    begin = time.perf_counter()
    for _ in range(calls):
        sampler.step(512, 0.01, 0.001)
    return (time.perf_counter() - begin) / calls
