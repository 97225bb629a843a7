"""The runs of a study that are there, also those that were trained elsewhere and copied."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import UserError
from data_pipeline.records import read_json
from launch.sweep.trainings import Training, check_training

if TYPE_CHECKING:
    from vae_dist.train.settings import Settings

DECIDING: dict[str, tuple[str, ...]] = {
    "model": (),
    "loss": (),
    "optim": (),
    "augment": (),
    "run": ("seed", "epochs", "max_steps", "batch_size", "do_augs"),
    "precision": ("mixed_precision",),
}
"""Settings that a figure follows from, by group; all of a group where none is named."""


def is_done(runs_dir: Path, training: Training) -> bool:
    """Whether its training ended."""
    path = runs_dir / training.name / "status.json"
    return path.is_file() and read_json(path).get("state") == "done"


def check_settings(runs_dir: Path, trainings: list[Training]) -> None:
    """Refuse runs of a row that were trained with other settings than the row has now.

    Settings that an older program did not write are not compared.

    Raises
    ------
    UserError
        The run, the first such setting, and both values.
    """
    settings: Settings | None = None
    for training in trainings:
        settings = settings or check_training(training, training.name)
        path = runs_dir / training.name / "config.json"
        there = read_json(path)
        run = dataclasses.replace(settings.run, seed=training.values["seed"])
        for group, keys in DECIDING.items():
            wanted = dataclasses.asdict(run if group == "run" else getattr(settings, group))
            held = there.get(group, {})
            for key in keys or tuple(wanted):
                if key in held and _plain(wanted[key]) != held[key]:
                    raise UserError(
                        f"{path}: {key} is {held[key]}, and {_plain(wanted[key])} in the study; "
                        "Fix: move that run to another folder, or name it by another row"
                    )


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return json.loads(json.dumps(value, default=str))
