"""Lanes deal every image of an epoch once, whatever the shards, the world and the workers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.folder.manifest import Shard
from data_pipeline.load.lanes import BlockTable, Epoch, lane_positions, owned_lanes
from data_pipeline.order import World, steps_per_epoch


def table(counts, block_size, exclude=()):
    shards = [
        Shard(name=f"{n}.tar", count=count, bytes=512, sha256="0" * 64, offsets=[0, 512])
        for n, count in enumerate(counts)
    ]
    return BlockTable.of(shards, block_size, exclude)


def lane_images(blocks, plan, lane):
    """(block, image) of every place of a lane, by walking its windows."""
    begin, end = plan.lane_bounds(lane)
    images = []
    while len(images) < end - begin:
        window = plan.window(lane, len(images))
        assert window.first == len(images)
        within = [(p.block, i) for p in window.pieces for i in range(p.first, p.last)]
        assert len(window.pieces) <= plan.window_blocks
        assert sorted(window.order) == list(range(len(within)))
        images += [within[i] for i in window.order]
        for place in {window.first, window.last - 1}:  # the same window from any place in it
            assert plan.window(lane, place).pieces == window.pieces
    return images


shard_counts = st.lists(st.integers(1, 60), min_size=1, max_size=6)


@settings(deadline=None, max_examples=40)
@given(
    counts=shard_counts,
    block_size=st.integers(1, 20),
    lanes=st.integers(1, 70),
    window=st.integers(1, 5),
    epoch=st.integers(0, 3),
)
def test_lanes_hold_every_image_once(counts, block_size, lanes, window, epoch):
    blocks = table(counts, block_size)
    plan = Epoch(blocks, lanes, window, 5, epoch)
    assert plan.num_images == sum(counts)
    seen = [image for lane in range(lanes) for image in lane_images(blocks, plan, lane)]
    assert sorted(seen) == [(b, i) for b, c in enumerate(blocks.count) for i in range(c)]


@settings(deadline=None, max_examples=40)
@given(
    num_images=st.integers(1, 300),
    batch_size=st.integers(1, 80),
    lanes=st.integers(8, 70),
    size=st.integers(1, 8),
    workers=st.integers(1, 4),
)
def test_ranks_and_workers_share_every_batch(num_images, batch_size, lanes, size, workers):
    mine = [
        owned_lanes(lanes, World(r, size), w, workers) for r in range(size) for w in range(workers)
    ]
    assert sorted(np.concatenate(mine)) == list(range(lanes))
    for step in range(steps_per_epoch(num_images, batch_size)):
        start = step * batch_size
        count = min(batch_size, num_images - start)
        seen = []
        for lanes_of_one in mine:
            position, slot = lane_positions(start, count, lanes, lanes_of_one)
            assert (np.diff(position) > 0).all()
            assert ((start + position) % lanes == lanes_of_one[slot]).all()
            seen += position.tolist()
        assert sorted(seen) == list(range(count))


def test_order_differs_by_epoch_and_seed():
    blocks = table([40, 40, 25], 8)
    orders = {
        tuple(lane_images(blocks, Epoch(blocks, 4, 2, seed, epoch), 0))
        for seed, epoch in [(0, 0), (0, 1), (1, 0)]
    }
    assert len(orders) == 3


def test_excluded_shards_have_no_blocks():
    blocks = table([5, 6, 7], 4, {"1.tar"})
    assert blocks.shard.tolist() == [0, 0, 2, 2]
    assert blocks.count.tolist() == [4, 1, 4, 3]
    assert len(table([5], 4, {"0.tar"}).count) == 0
