"""The stream loader gives the guarantees of memory, from tars, with a bounded buffer."""

import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.loader import make_loader
from data_pipeline.load.stream import _join
from data_pipeline.order import World
from tests.data_folders import drawn, written

SOURCE = drawn(train=257, test=41)
# layout, samples a shard, block size: fewer shards than ranks, one image a block, odd ends
SHAPES = [("block", 300, 8), ("block", 17, 5), ("block", 50, 1), ("sample", 40, 7)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("folders")
    return [
        written(root / str(n), SOURCE, layout=layout, samples_per_shard=per_shard, block_size=block)
        for n, (layout, per_shard, block) in enumerate(SHAPES)
    ]


def stream(data, world=None, split="train", batch_size=32, seed=3, shuffle=True, **settings):
    exclude = settings.pop("exclude", frozenset())
    config = LoaderConfig(loader="stream", **{"lanes": 16, "shuffle_window": 2, **settings})
    return make_loader(
        data, split, config, world or World(), batch_size=batch_size, seed=seed, shuffle=shuffle,
        exclude=exclude,
    )  # fmt: skip


def whole(parts):
    """One global batch as (index, first bytes of the image), joined from the ranks' parts."""
    found = {}
    for part in parts:
        assert part.size == parts[0].size
        for p, i, image in zip(part.position, part.index, part.images, strict=True):
            assert int(p) not in found
            found[int(p)] = (int(i), bytes(image.numpy().tobytes()))
    assert sorted(found) == list(range(parts[0].size))
    return [found[p] for p in range(parts[0].size)]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    folder=st.integers(0, len(SHAPES) - 1),
    lanes=st.integers(8, 40),
    window=st.integers(1, 4),
    batch_size=st.integers(5, 300),
    size=st.integers(1, 8),
    workers=st.integers(1, 4),
    epoch=st.integers(0, 2),
    shuffle=st.booleans(),
    data=st.data(),
)
def test_exactly_once_and_the_same_global_batches(
    folders, folder, lanes, window, batch_size, size, workers, epoch, shuffle, data
):
    opened = folders[folder]
    settings = {"lanes": lanes, "shuffle_window": window, "batch_size": batch_size}
    settings |= {"shuffle": shuffle, "prefetch": 0}
    alone = stream(opened, **settings)
    expected = [whole([batch]) for batch in alone.batches(epoch)]
    assert len(expected) == alone.steps_per_epoch == -(-205 // batch_size)
    raw = SOURCE.splits["train"].images
    images = [image for batch in expected for image in batch]
    assert sorted(i for i, _ in images) == opened.arrays("train").index.tolist()
    assert all(image == raw[i].tobytes() for i, image in images)
    start = data.draw(st.integers(0, len(expected)))
    together = []
    for rank in range(size):
        loader = stream(opened, World(rank, size), **settings)
        by_worker = [list(loader.parts(epoch, start, w, workers)) for w in range(workers)]
        if shuffle:  # the workers of a rank share each step
            together.append([_join(list(turn)) for turn in zip(*by_worker, strict=True)])
        else:  # the workers take steps in turn
            steps = [batch for worker in by_worker for batch in worker]
            together.append(sorted(steps, key=lambda batch: batch.step))
    assert [whole(parts) for parts in zip(*together, strict=True)] == expected[start:]
    assert [batch.step for batch in together[0]] == list(range(start, len(expected)))


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("shuffle", [True, False])
def test_worker_processes_change_nothing(folders, workers, shuffle):
    expected = list(stream(folders[1], prefetch=0, shuffle=shuffle).batches(1, 2))
    found = list(stream(folders[1], workers=workers, shuffle=shuffle).batches(1, 2))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        for name in ("images", "labels", "index", "position"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert (one.size, one.epoch, one.step) == (other.size, other.epoch, other.step)


def test_without_shuffle_it_is_memory(folders):
    for split in ("val", "test"):
        for rank in range(3):
            settings = {"batch_size": 16, "shuffle": False}
            streamed = stream(folders[1], World(rank, 3), split, **settings)
            held = make_loader(
                folders[1], split, LoaderConfig(loader="memory"), World(rank, 3), **settings
            )
            for one, other in zip(streamed.batches(), held.batches(), strict=True):
                assert torch.equal(one.images, other.images)
                assert torch.equal(one.index, other.index)
                assert torch.equal(one.position, other.position)


def test_resume_reads_only_what_it_needs(folders, monkeypatch):
    loader = stream(folders[1], batch_size=16, prefetch=0)
    reads = []
    read = loader.reader.read
    monkeypatch.setattr(loader.reader, "read", lambda *what: reads.append(what) or read(*what))
    next(loader.batches(0, loader.steps_per_epoch - 2))
    assert len(reads) <= 16  # one window a lane


def test_order_differs_from_epoch_to_epoch(folders):
    loader = stream(folders[0])
    first, again, second = (
        [i for b in loader.batches(e) for i in b.index.tolist()] for e in (0, 0, 1)
    )
    assert first == again
    assert first != second
    assert sorted(first) == sorted(second)


def test_auto_chooses_by_size_and_says_so(folders):
    held = make_loader(folders[0], "train", LoaderConfig(), World(), batch_size=8)
    assert held.mode == "memory"
    config = LoaderConfig(memory_limit=1e-6)
    streamed = make_loader(folders[0], "train", config, World(), batch_size=8)
    assert streamed.mode == "stream"
    assert "--memory-limit" in streamed.reason


def test_settings_are_checked(folders):
    with pytest.raises(ValueError, match="--lanes 16"):
        stream(folders[0], World(0, 17))
    for wrong in ({"loader": "disk"}, {"workers": -1}, {"lanes": 0}, {"on_bad_shard": "cry"}):
        flag = "--" + next(iter(wrong)).replace("_", "-")
        with pytest.raises(ValueError, match=flag):
            LoaderConfig(**wrong)
    with pytest.raises(ValueError, match="--data-device"):
        LoaderConfig(loader="stream", data_device="cuda")


def test_leaving_early_ends_the_thread(folders):
    before = threading.active_count()
    batches = stream(folders[0]).batches()
    next(batches)
    assert threading.active_count() == before + 1
    batches.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("layout", ["block", "sample"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_shard_is_named(tmp_path, layout, workers):
    data = written(tmp_path / "d", SOURCE, layout=layout, samples_per_shard=40, block_size=8)
    path = tmp_path / "d" / "train-000002.tar"
    content = path.read_bytes()
    for damaged in (content[: len(content) // 2], content[:3000] + b"\1\2" + content[3002:]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"^[^\n]*train-000002\.tar: damaged shard"):
            list(stream(data, workers=workers).batches())
        rest = stream(data, workers=workers, exclude={"train-000002.tar"})
        index = np.concatenate([b.index for b in rest.batches()])
        assert len(index) == len(set(index)) == rest.num_images == 205 - 40
        assert rest.excluded == ["train-000002.tar"]
