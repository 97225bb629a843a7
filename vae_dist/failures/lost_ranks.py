"""Say plainly what it means when a collective fails because other ranks are gone."""

from __future__ import annotations

import torch.distributed as dist

# What gloo says where torch raises a bare RuntimeError.
_GLOO_WORDS = (
    "Timed out waiting",
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "No route to host",
    "Read error",
)


class LostRanks(ConnectionError):
    """Other ranks of the run are dead, hung or cut off."""


def is_lost_ranks(error: BaseException) -> bool:
    """Whether an error came from a collective that the other ranks did not take part in."""
    if isinstance(error, dist.DistBackendError | dist.DistNetworkError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(word in text for word in _GLOO_WORDS)


def explain_lost_ranks(error: BaseException, rank: int, size: int, timeout: float) -> LostRanks:
    """The same failure in words that say where to look next.

    Parameters
    ----------
    error : BaseException
        What the collective raised.
    rank, size : int
        This process, of how many.
    timeout : float
        What ``--collective-timeout`` is.
    """
    reason = " ".join(str(error).split())[-160:]
    return LostRanks(
        f"rank {rank} of {size} waited for the other ranks in vain (--collective-timeout "
        f"{timeout:g} s): one of them is dead, hung or cut off; the log of the rank that failed "
        f"first says why; start again with --resume auto ({reason})"
    )
