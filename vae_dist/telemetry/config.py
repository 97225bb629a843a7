"""Settings of the sampler."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from data_pipeline.checks import AtLeast, check_fields
from data_pipeline.errors import UserError


@dataclass(kw_only=True)
class TelemetryConfig:
    """Sampling of GPU, process and throughput figures."""

    telemetry_interval: Annotated[float, AtLeast(0)] = 1.0
    """Seconds between two samples of each rank; 0 samples nothing and writes no file."""
    telemetry_device: str = "auto"
    """The GPU that a rank watches: auto (the one it trains on; on the CPU, the one that
    CUDA_VISIBLE_DEVICES assigns to it), none, or an NVML index or (short) UUID; a comma list
    gives one to each local rank."""

    def __post_init__(self) -> None:
        check_fields(self)
        if 0 < self.telemetry_interval < 0.05:
            raise UserError(
                f"--telemetry-interval {self.telemetry_interval}: the shortest is 0.05 (one PCIe "
                "reading takes 20 ms); 0 switches the sampler off"
            )
        if not all(part.strip() for part in self.telemetry_device.split(",")):
            raise UserError(
                f"--telemetry-device {self.telemetry_device!r}: auto, none, an index, a UUID, "
                "or several of the last two between commas"
            )
