"""What a run's own ``metrics.jsonl`` says of its training."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.records import parse_json
from evaluation.measures.latents import MOST_LATENTS

CURVE_POINTS = 500


def metrics_of(run: Path) -> list[dict[str, Any]]:
    """A run's records; nothing without a file."""
    for folder in (run, *list(run.parents)[:2]):  # a run folder, or a checkpoint within one
        path = folder / "metrics.jsonl"
        if path.is_file() and (folder / "config.json").is_file():
            break
    else:
        return []
    records = []
    for line in path.read_bytes().splitlines():
        # The last line of a run that is being written, or one that a power cut damaged.
        with contextlib.suppress(UserError):
            records.append(parse_json(line, str(path)))
    return records


def thinned(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """All records of validation, at most 500 of training; without lists of thousands of latents."""
    records = [
        {
            name: value
            for name, value in record.items()
            if not (isinstance(value, list) and len(value) > MOST_LATENTS)
        }
        for record in records
    ]
    train = [record for record in records if record.get("split") == "train"]
    every = max(1, -(-len(train) // CURVE_POINTS))
    others = [record for record in records if record.get("split") != "train"]
    return train[::every] + others


def training_seconds(
    records: list[dict[str, Any]], until: int, batch_size: int | None
) -> float | None:
    """Seconds of training up to a step, by the images a second that were logged.

    Validation and checkpoints are not in them. None where the records do not say.

    Parameters
    ----------
    records : list of dict
        Of ``metrics.jsonl``, in its order.
    until : int
        Optimizer steps.
    batch_size : int or None
        Of the global batch.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        return None
    seconds, before, pace = 0.0, 0, 0.0
    for record in records:
        step, rate = record.get("step"), record.get("images_per_second")
        if record.get("split") != "train" or not isinstance(step, int):
            continue
        if not isinstance(rate, int | float) or not rate > 0:
            continue
        pace = batch_size / rate
        seconds += max(min(step, until) - before, 0) * pace
        before = max(before, min(step, until))
    # After the last line of the log the pace is that of this line.
    return seconds + (until - before) * pace if before else None
