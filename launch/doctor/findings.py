"""What a check of ``doctor`` reports."""

from __future__ import annotations

import dataclasses
from typing import Literal

Status = Literal["ok", "note", "warning", "error"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing found: how it stands, its value, and what to do about it."""

    name: str
    status: Status
    value: str
    fix: str = ""
