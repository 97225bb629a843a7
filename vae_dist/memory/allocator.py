"""How the C library's allocator treats the memory of a step."""

from __future__ import annotations

import torch

LARGEST = 31 << 20
"""Bytes; glibc maps larger blocks from the system each time, whatever it has learned."""


def keep_freed_memory() -> None:
    """Have glibc keep what a step frees for the next one.

    By itself it gives freed memory at its top back to the system once that is twice the largest
    block it has seen freed, and each step faults its pages in again, which costs up to a quarter
    of the time. Freeing one large block teaches it to keep 62 MiB. Another C library does
    nothing here.
    """
    torch.empty(LARGEST, dtype=torch.uint8)
