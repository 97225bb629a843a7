"""TensorBoard and other trackers, through Accelerate: which there are, and what they are told."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.errors import UserError, nearest

if TYPE_CHECKING:
    from accelerate import Accelerator

    from vae_dist.train.settings import Settings


def check_tracker(name: str) -> None:
    """Refuse a tracker that Accelerate does not know, or whose package is not installed."""
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers
    from accelerate.utils import LoggerType

    if name == "tensorboard":
        raise UserError("--tracker tensorboard: Fix: --tensorboard True, which is the default")
    known = [kind for kind in LOGGER_TYPE_TO_CLASS if kind != "tensorboard"]
    if name not in known:
        raise UserError(f"--tracker {name}: no such tracker; {nearest(name, known)}")
    if name in LoggerType.list() and name not in map(str, get_available_trackers()):
        package = name.replace("_", "-")
        raise UserError(f"--tracker {name}: not installed here; Fix: pip install {package}")


ARTICLE2018_TAGS = {"loss": "loss", "recon": "img_loss", "kl": "kl_loss", "ssim": "ssim"}
"""Our names to those in the tags of the 2018 program (train_img_loss ...)."""


HELD_SECONDS = 0.5
"""How long figures wait for others before TensorBoard's thread is given them: to wake it takes the
training longer than to make the figures."""


MOST_TAGS = 256
"""Numbers of a list (``kl_dim``) that trackers get, a tag each; longer ones are in metrics.jsonl
alone: no page of charts holds thousands."""


class Trackers:
    """A sink: TensorBoard and the other trackers.

    Each figure has two tags: one in a group of its own (``loss/train`` beside ``loss/val``), and
    that of the 2018 program (``train_loss``). Both count optimizer steps.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._step = 0
        self._held: list[tuple[Any, int, float]] = []

    def record(self, figures: dict[str, Any]) -> None:
        split, step = figures["split"], figures["step"]
        self._step = step
        scalars = {}
        for name, value in figures.items():
            if isinstance(value, int | float) and name not in ("step", "epoch"):
                scalars[f"{name}/{split}"] = value
                scalars[f"{split}_{ARTICLE2018_TAGS.get(name, name)}"] = value
        for name, value in figures.items():
            if isinstance(value, list) and len(value) <= MOST_TAGS:
                scalars |= {f"{split}_{name}/{i}": v for i, v in enumerate(value)}
        self.scalars(scalars, step)

    def scalars(self, figures: dict[str, float], step: int) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for tracker in self._accelerator.trackers:
            if tracker.name != "tensorboard":
                tracker.log(figures, step=step)
                continue
            # One event for all, written by TensorBoard's own thread: Accelerate would write one
            # for each number, and wait for the file.
            values = [Summary.Value(tag=tag, simple_value=v) for tag, v in figures.items()]
            self._held.append((Summary(value=values), step, time.time()))
            if time.time() - self._held[0][2] > HELD_SECONDS:
                self._hand_over()

    def _hand_over(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        held, self._held = self._held, []
        for tracker in self._accelerator.trackers:
            if tracker.name == "tensorboard":
                for summary, step, when in held:
                    tracker.writer.file_writer.add_event(Event(summary=summary), step, when)

    def epoch(self, number: int, train: dict[str, float], val: dict[str, float]) -> None:
        self._hand_over()
        tags = {f"eph_tr_{t}": train.get(n) for n, t in ARTICLE2018_TAGS.items()}
        tags |= {f"eph_val_{t}": val.get(n) for n, t in ARTICLE2018_TAGS.items()}
        scalars = {tag: value for tag, value in tags.items() if value is not None}
        for tracker in self._accelerator.trackers:
            # The 2018 program counts these by epoch. TensorBoard keeps a count for each tag; the
            # others have one for all, which must not go back.
            step = number if tracker.name == "tensorboard" else self._step
            tracker.log(scalars | ({} if step == number else {"epoch": number}), step=step)

    def images(self, panel: np.ndarray, step: int) -> None:
        for tracker in self._accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.writer.add_image("panno", panel, step, dataformats="HWC")

    def say(self, line: str) -> None: ...
    def show(self, renderable: Any) -> None: ...

    def flush(self) -> None:
        self._hand_over()
        for tracker in self._accelerator.trackers:
            if tracker.name == "tensorboard":
                tracker.writer.flush()

    def close(self) -> None:
        self._hand_over()
        self._accelerator.end_training()


NAME_OF_RUN = {
    "wandb": "name",
    "trackio": "name",
    "mlflow": "run_name",
    "swanlab": "experiment_name",
    "clearml": "task_name",
}
"""How trackers call the argument that takes the run's name."""


def start_trackers(settings: Settings, accelerator: Accelerator, run_dir: Path, step: int) -> None:
    """Start TensorBoard and the other trackers; these are given project, name and settings.

    Raises
    ------
    UserError
        If one of the others does not start: no account, no network, no package of its own.
    """
    from accelerate.tracking import TensorBoardTracker

    log, name = settings.log, settings.run.name
    config = {
        f"{owner}.{key}": value if isinstance(value, bool | int | float | str) else str(value)
        for owner, values in settings.as_dict().items()
        for key, value in values.items()
    }
    try:
        accelerator.init_trackers(
            log.project, config, {kind: {NAME_OF_RUN[kind]: name} for kind in NAME_OF_RUN}
        )
    except Exception as error:  # each tracker has exceptions of its own
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"--tracker {' '.join(log.tracker)}: does not start ({reason})") from error
    if log.tensorboard:
        # What a killed run wrote beyond its checkpoint is written again: TensorBoard drops it.
        board = TensorBoardTracker("tensorboard", str(run_dir), purge_step=step + 1, flush_secs=5)
        board.start()
        board.log({"settings": "\n".join(f"    {k} = {v}" for k, v in config.items())}, step=step)
        accelerator.trackers.append(board)
