"""How images are read while training."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from data_pipeline.errors import UserError
from data_pipeline.remote.reading import RemoteConfig

LOADERS = ("auto", "memory", "stream")
BAD_SHARD_POLICIES = ("fail", "skip")
DATA_DEVICES = ("cpu", "cuda")


@dataclass(kw_only=True)
class LoaderConfig(RemoteConfig):
    """How images are read while training."""

    loader: str = "auto"
    """memory: all images are held; stream: a bounded buffer; auto: by size."""
    memory_limit: float = 2.0
    """auto holds a split in memory up to this many GB of pixels."""
    workers: int = 0
    """stream: processes that read; 0: a thread. Use some for layout sample (PNGs)."""
    lanes: int = 64
    """stream: parts of an epoch that are read side by side; decides the order."""
    shuffle_window: int = 4
    """stream: blocks of a lane whose images are shuffled together; decides the order."""
    prefetch: int = 2
    """Batches made ready in the background; 0: none."""
    pin_memory: bool = True
    """With a GPU: batches lie in page-locked memory, from which copies do not block."""
    data_device: str = "cpu"
    """memory: where the images are held; cuda holds a small set wholly in GPU memory."""
    on_bad_shard: str = "fail"
    """fail: a damaged shard ends the run; skip: it is left out on all ranks and counted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.loader not in LOADERS:
            raise UserError(f"--loader {self.loader}: expected one of {', '.join(LOADERS)}")
        if self.on_bad_shard not in BAD_SHARD_POLICIES:
            raise UserError(
                f"--on-bad-shard {self.on_bad_shard}: "
                f"expected one of {', '.join(BAD_SHARD_POLICIES)}"
            )
        for name, least in (
            ("memory_limit", 0),
            ("workers", 0),
            ("lanes", 1),
            ("shuffle_window", 1),
            ("prefetch", 0),
        ):
            value = getattr(self, name)
            if value < least:
                flag = "--" + name.replace("_", "-")
                raise UserError(f"{flag} {value}: must be at least {least}")
        if self.data_device not in DATA_DEVICES:
            raise UserError(
                f"--data-device {self.data_device}: expected one of {', '.join(DATA_DEVICES)}"
            )
        if self.data_device == "cuda" and not torch.cuda.is_available():
            raise UserError("--data-device cuda: no GPU is visible here; Fix: --data-device cpu")
        if self.data_device != "cpu" and self.loader == "stream":
            raise UserError(f"--data-device {self.data_device}: needs --loader memory")
