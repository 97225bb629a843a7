"""Where a run stands."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Counters:
    """Where a run stands. With the weights and the optimizer, this is its whole state."""

    epoch: int = 0
    """Epochs completed, validation included."""
    step_in_epoch: int = 0
    """Steps taken in the epoch that is under way."""
    step: int = 0
    """Optimizer steps taken in all."""
    skipped: int = 0
    """Steps whose update the fp16 scaler skipped."""
    bad_steps: int = 0
    """Steps whose update was skipped under --max-bad-steps."""
    since_best: int = 0
    """Validations since the best one."""
    since_reduction: int = 0
    """Validations since the best one or the last time that the plateau schedule lowered the rate."""
    reductions: int = 0
    """How often it did."""

    @property
    def updates(self) -> int:
        """Times that the optimizer changed the weights."""
        return self.step - self.skipped - self.bad_steps
