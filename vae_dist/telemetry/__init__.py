"""What the GPUs, the processes and the training loop do, sampled by a thread a rank.

The trainer uses :func:`make_telemetry` and :func:`table`; evaluation uses
:class:`StageTimer`. Every field, its unit and its source: ``docs/telemetry.md``.
"""

from vae_dist.telemetry.config import TelemetryConfig
from vae_dist.telemetry.sampler import Telemetry, make_telemetry, telemetry_file
from vae_dist.telemetry.summary import compare, table
from vae_dist.telemetry.timer import StageTimer

__all__ = [
    "StageTimer",
    "Telemetry",
    "TelemetryConfig",
    "compare",
    "make_telemetry",
    "table",
    "telemetry_file",
]
