"""The memory loader: exactly once, the same global batches on every world."""

from itertools import chain

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.batch import Arrays
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.loader import make_loader
from data_pipeline.load.memory import MemoryLoader
from data_pipeline.order import World
from tests.data_folders import drawn, written

ALONE = World()


def loader(count=50, batch_size=16, world=ALONE, seed=3, shuffle=True):
    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    arrays = Arrays(images, np.arange(count) % 5, np.arange(count) * 2)
    return MemoryLoader(arrays, batch_size, world, seed, shuffle)


def joined(batches):
    """The parts of one global batch, in the order of their positions."""
    index = np.concatenate([b.index for b in batches])
    position = np.concatenate([b.position for b in batches])
    order = np.argsort(position)
    assert position[order].tolist() == list(range(batches[0].size))
    return index[order].tolist()


@settings(max_examples=50, deadline=None)
@given(
    count=st.integers(1, 100),
    batch_size=st.integers(1, 40),
    size=st.integers(1, 8),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_same_global_batches_on_every_world(count, batch_size, size, epoch, data):
    alone = [b.index.tolist() for b in loader(count, batch_size).batches(epoch)]
    assert sorted(chain(*alone)) == list(range(0, 2 * count, 2))
    start = data.draw(st.integers(0, len(alone)))
    ranks = [loader(count, batch_size, World(rank, size)) for rank in range(size)]
    assert {r.steps_per_epoch for r in ranks} == {len(alone)}
    together = list(zip(*(r.batches(epoch, start) for r in ranks), strict=True))
    assert [joined(parts) for parts in together] == alone[start:]
    assert [parts[0].step for parts in together] == list(range(start, len(alone)))


def test_images_and_labels_follow_their_index():
    for batch in loader(50, 16).batches(1):
        assert torch.equal(batch.images.flatten().long() * 2, batch.index)
        assert torch.equal(batch.labels, batch.index // 2 % 5)
        assert batch.images.dtype == torch.uint8
        assert batch.epoch == 1


def test_order_differs_by_epoch_and_not_without_shuffle():
    first, second = ([b.index.tolist() for b in loader().batches(e)] for e in (0, 1))
    assert first != second
    fixed = [i for b in loader(shuffle=False).batches(5) for i in b.index.tolist()]
    assert fixed == list(range(0, 100, 2))


def test_more_processes_than_images():
    parts = [next(loader(3, 8, World(r, 5)).batches()) for r in range(5)]
    assert sorted(len(p) for p in parts) == [0, 0, 1, 1, 1]
    assert parts[0].images.shape[1:] == (1, 1, 1)


def test_from_a_folder(tmp_path):
    source = drawn()
    data = written(tmp_path / "d", source, samples_per_shard=16)
    made = make_loader(data, "train", LoaderConfig(), World(), batch_size=32, seed=1)
    assert (made.mode, made.num_images, made.steps_per_epoch) == ("memory", 80, 3)
    for batch in made.batches():
        raw = source.splits["train"]
        assert np.array_equal(batch.images, raw.images[batch.index])
        assert np.array_equal(batch.labels, raw.labels[batch.index])


def test_a_damaged_shard_is_named_or_left_out(tmp_path):
    data = written(tmp_path / "d", samples_per_shard=16)
    path = tmp_path / "d" / "train-000001.tar"
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ValueError, match=r"train-000001\.tar"):
        make_loader(data, "train", LoaderConfig(), World(), batch_size=8)
    made = make_loader(
        data, "train", LoaderConfig(), World(), batch_size=8, exclude={"train-000001.tar"}
    )
    assert made.num_images == 64
