"""One history in a run folder: what lies beyond the step a run goes on from is set aside."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

from data_pipeline.files import write_whole
from vae_dist.run.checkpoint import checkpoint_path, link, read_meta
from vae_dist.run.which_checkpoint import linked, list_checkpoints, remove, step_of

EPOCH_TAGS = "eph_"
"""TensorBoard tags that begin so are counted in epochs, the others in steps."""


def go_back(run: Path, step: int, epoch: int) -> str:
    """Set aside what lies beyond a step, so that nothing of another history is mixed in.

    Checkpoints of later steps are moved to ``abandoned-after-step-NNNNNNNN/``, with a copy of
    ``metrics.jsonl`` and of the TensorBoard files as they were. Nothing is set aside where there
    is no later checkpoint: what a killed run wrote beyond its last one is written again.

    Parameters
    ----------
    run : Path
        The run folder.
    step, epoch : int
        Optimizer steps and whole epochs that the run goes on from.

    Returns
    -------
    str
        One line on what was set aside, or empty.
    """
    checkpoints = run / "checkpoints"
    beyond = [path for path in list_checkpoints(checkpoints) if step_of(path) > step]
    if not beyond:
        cut_events(run / "tensorboard", step, epoch, None)
        return ""
    place = _free(run / f"abandoned-after-step-{step:08d}")
    best = linked(checkpoints, "best")
    (place / "checkpoints").mkdir(parents=True)
    if (run / "metrics.jsonl").exists():
        shutil.copy2(run / "metrics.jsonl", place)
    cut_events(run / "tensorboard", step, epoch, place / "tensorboard")
    for path in reversed(beyond):
        os.rename(path, place / "checkpoints" / path.name)
    if checkpoint_path(checkpoints, step).exists():
        link(checkpoints, "last", checkpoint_path(checkpoints, step))
    if best in beyond:
        (checkpoints / "best").unlink(missing_ok=True)
    _link_best(checkpoints)
    names = ", ".join(path.name for path in beyond)
    return f"set aside in {place}, as lying beyond step {step}: {names}"


def best_score(checkpoints: Path, otherwise: float | None) -> float | None:
    """Score of the checkpoint that ``best`` names; None without one; `otherwise` if unknown."""
    best = linked(checkpoints, "best")
    if best is None:
        return None
    score = read_meta(best).score
    return otherwise if score is None else score


def clear(run: Path) -> None:
    """Remove a run that is given up: its checkpoints, figures and TensorBoard files."""
    for checkpoint in list_checkpoints(run / "checkpoints"):
        remove(checkpoint)
    for name in ("best", "last"):
        (run / "checkpoints" / name).unlink(missing_ok=True)
    for path in (*run.glob("*.jsonl"), *(run / "tensorboard").glob("events.out.tfevents.*")):
        path.unlink()


def _link_best(checkpoints: Path) -> None:
    """Point ``best`` at the best of the checkpoints that are left, by the newest one's figure."""
    metas = [(path, read_meta(path)) for path in list_checkpoints(checkpoints)]
    figures = {"", metas[-1][1].best_by} if metas else set()
    known = [(m.score, path) for path, m in metas if m.score is not None and m.best_by in figures]
    if known:
        link(checkpoints, "best", min(known)[1])


def _free(place: Path) -> Path:
    number, found = 2, place
    while found.exists():
        found = place.with_name(f"{place.name}-{number}")
        number += 1
    return found


def cut_events(folder: Path, step: int, epoch: int, keep: Path | None) -> None:
    """Take out of TensorBoard's files what lies beyond a step, or an epoch for `EPOCH_TAGS`.

    TensorBoard's own ``purge_step`` counts all tags alike, and so leaves epochs in twice.

    Parameters
    ----------
    folder : Path
        The folder of the event files.
    step, epoch : int
    keep : Path, optional
        Where the files that are changed are kept as they were.
    """
    for path in sorted(folder.glob("events.out.tfevents.*")):
        kept = _events_up_to(path, step, epoch)
        if kept is None:
            continue
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, keep)
        write_whole(path, kept)


def _events_up_to(path: Path, step: int, epoch: int) -> bytes | None:
    """The file without later events; None if it has none. A record cut by a kill ends it."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.summary.writer.record_writer import RecordWriter

    content = io.BytesIO()
    writer, dropped = RecordWriter(content), False
    for record in RawEventFileLoader(str(path)).Load():
        event = Event.FromString(record)
        by_epoch = any(value.tag.startswith(EPOCH_TAGS) for value in event.summary.value)
        if event.step > (epoch if by_epoch else step):
            dropped = True
        else:
            writer.write(record)
    return content.getvalue() if dropped else None
