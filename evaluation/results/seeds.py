"""Trainings that differ only in their seed, as one figure with an interval over them.

The intervals of single rows speak of the choice of labels. How much a figure owes to the luck
of one training shows only over several.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any

from evaluation.results.records import Results, Row
from evaluation.sampling import interval


def training_key(config: dict[str, Any]) -> str | None:
    """Hash of all settings that decide a training, but its seed; None for a 2018 checkpoint."""
    run = config.get("run")
    if run is None:
        return None
    deciding = {name: config[name] for name in ("model", "loss", "optim")}
    deciding["data"] = config["data"]["fingerprint"]
    deciding["precision"] = config["precision"]["mixed_precision"]
    deciding["run"] = {name: run[name] for name in ("epochs", "max_steps", "batch_size", "do_augs")}
    if config.get("augment", {}).get("augment"):
        deciding["augment"] = config["augment"]
    start = config.get("start", {})
    if start.get("init_from") or start.get("freeze"):
        deciding["start"] = start
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]


def alike(results: Results) -> list[list[str]]:
    """Names of the runs of one training each, where there are several and their seeds differ."""
    found: dict[str, dict[int, str]] = {}
    for run in results.runs:
        if run.training is not None and run.seed is not None:
            found.setdefault(run.training, {}).setdefault(run.seed, run.name)
    return [list(by_seed.values()) for by_seed in found.values() if len(by_seed) > 1]


def over_seeds(results: Results) -> list[Row]:
    """Mean of each figure over the trainings that differ only in their seed.

    Returns
    -------
    list of Row
        ``run`` names the trainings, ``repeats`` counts them, ``values`` has the figure of each,
        ``ci_low`` and ``ci_high`` bound the 95 % t interval over them. Figures that some of them
        lack, or that are of one latent or class, are not counted.
    """
    rows = []
    for names in alike(results):
        cells: dict[tuple[Any, ...], dict[str, Row]] = {}
        for row in results.rows:
            if row.run in names and row.value is not None and row.index is None:
                cell = (row.method, row.dim, row.metric, row.split, row.labels_per_class)
                cells.setdefault((*cell, row.k, row.weights), {})[row.run] = row
        for by_run in cells.values():
            if len(by_run) == len(names):
                one = by_run[names[0]]
                values = [by_run[name].value or 0.0 for name in names]
                changes: dict[str, Any] = interval(values, one.metric) | {"run": ", ".join(names)}
                changes |= dict.fromkeys(
                    ("embedding", "seed", "seconds", "peak_memory_bytes", "note")
                )
                rows.append(replace(one, **changes))
    return rows
