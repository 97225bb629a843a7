"""How a run's copy in an object store is kept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

from data_pipeline.checks import Above, AtLeast, check_fields


@dataclasses.dataclass(kw_only=True)
class MirrorConfig:
    """A run whose --runs-dir is an address: s3://, gs://, hf:// and the like."""

    runs_cache: Path | None = None
    """Folder on this machine that such a run is written in, and copied from; vae-dist/runs in the
    user's cache folder if not given."""
    mirror_every: Annotated[float, Above(0)] = 30.0
    """Seconds between two copies of the logs and the telemetry; checkpoints are copied at once."""
    mirror_wait: Annotated[float, AtLeast(0)] = 600.0
    """Seconds that the end of a training waits for a store that does not answer."""

    def __post_init__(self) -> None:
        check_fields(self)
