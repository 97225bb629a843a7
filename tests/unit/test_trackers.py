"""TensorBoard is given figures in lots, with the times at which they were made."""

import time
from types import SimpleNamespace

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

from vae_dist import trackers
from vae_dist.trackers import Trackers


def test_figures_are_handed_over_together_with_their_own_times(tmp_path, monkeypatch):
    monkeypatch.setattr(trackers, "HELD_SECONDS", 0.2)
    writer = SummaryWriter(str(tmp_path))
    given = []
    add = writer.file_writer.add_event
    monkeypatch.setattr(
        writer.file_writer, "add_event", lambda *event: (given.append(event[1]), add(*event))
    )
    tracker = SimpleNamespace(name="tensorboard", writer=writer)
    sink = Trackers(SimpleNamespace(trackers=[tracker], end_training=writer.close))
    made = []
    for step in (1, 2):
        made.append(time.time())
        sink.record({"split": "train", "step": step, "loss": float(step)})
        assert not given
        time.sleep(0.15)
    sink.record({"split": "train", "step": 3, "loss": 3.0})
    assert given == [1, 2, 3]
    sink.record({"split": "train", "step": 4, "loss": 4.0})
    sink.close()
    found = EventAccumulator(str(tmp_path)).Reload().Scalars("loss/train")
    assert [(e.step, e.value) for e in found] == [(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0)]
    assert all(abs(e.wall_time - t) < 0.05 for e, t in zip(found, made, strict=False))
