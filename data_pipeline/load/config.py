"""How images are read while training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch

from data_pipeline.checks import AtLeast, OneOf, check_fields
from data_pipeline.errors import UserError
from data_pipeline.remote.reading import RemoteConfig

LOADERS = ("auto", "memory", "stream")
BAD_SHARD_POLICIES = ("fail", "skip")
DATA_DEVICES = ("auto", "cpu", "cuda")


@dataclass(kw_only=True)
class LoaderConfig(RemoteConfig):
    """How images are read while training."""

    loader: Annotated[str, OneOf(*LOADERS)] = "auto"
    """memory: all images are held; stream: a bounded buffer; auto: by size."""
    memory_limit: Annotated[float, AtLeast(0)] = 2.0
    """auto holds a split in memory up to this many GB of pixels."""
    workers: Annotated[int, AtLeast(0)] = 0
    """stream: processes that read; 0: a thread. Use some for layouts sample and encoded."""
    lanes: Annotated[int, AtLeast(1)] = 64
    """stream: parts of an epoch that are read side by side; decides the order."""
    shuffle_window: Annotated[int, AtLeast(1)] = 4
    """stream: blocks of a lane whose images are shuffled together; decides the order."""
    prefetch: Annotated[int, AtLeast(0)] = 2
    """Batches made ready in the background; 0: none."""
    pin_memory: bool = True
    """With a GPU: batches lie in page-locked memory, from which copies do not block."""
    data_device: Annotated[str, OneOf(*DATA_DEVICES)] = "auto"
    """memory: where the images are held. auto: on the GPU that trains, if they fit into a tenth of
    its free memory."""
    on_bad_shard: Annotated[str, OneOf(*BAD_SHARD_POLICIES)] = "fail"
    """fail: a damaged shard ends the run; skip: no rank reads it, and it is counted."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.data_device == "cuda" and not torch.cuda.is_available():
            raise UserError("--data-device cuda: no GPU is visible here; Fix: --data-device cpu")
        if self.data_device == "cuda" and self.loader == "stream":
            raise UserError("--data-device cuda: needs --loader memory")

    @property
    def held_on(self) -> str:
        """Device that holds the images of the memory loader; training decides what auto is."""
        return "cpu" if self.data_device == "auto" else self.data_device
