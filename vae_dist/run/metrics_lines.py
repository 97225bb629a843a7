"""The lines of ``metrics.jsonl``: what they must hold, and reading them."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

from data_pipeline.errors import UserError
from data_pipeline.records import parse_json, read_record


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsLine:
    """What every line of ``metrics.jsonl`` has; its figures are numbers, null or lists of them."""

    split: Literal["train", "val"]
    step: int
    epoch: float = 0.0


def metrics_line(text: str | bytes) -> dict[str, Any] | None:
    """A line of ``metrics.jsonl``, or None if it is damaged."""
    try:
        record = parse_json(text, "line")
        read_record(MetricsLine, record, "line", ignore_unknown=True)
    except UserError:
        return None
    figures = [value for name, value in record.items() if name != "split"]
    return record if all(map(_is_figure, figures)) else None


def read_metrics(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Lines of a ``metrics.jsonl``, and how many are damaged.

    A last line that a kill cut short is neither.
    """
    if not path.exists():
        return [], 0
    *lines, _ = path.read_bytes().split(b"\n")
    records = [metrics_line(line) for line in lines]
    return [record for record in records if record is not None], records.count(None)


def _is_figure(value: Any) -> bool:
    if isinstance(value, list):
        return all(map(_is_figure, value))
    return value is None or (isinstance(value, int | float) and math.isfinite(value))


def without_nan(figures: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: what is not finite is written as null."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }
