"""How well the stream loader mixes, as docs/data.md states it."""

import numpy as np
import pytest

from data_pipeline.folder.manifest import Shard
from data_pipeline.load.lanes import BlockTable, Epoch

# Fashion-MNIST's training images with the default settings.
IMAGES, SHARD, BLOCK, LANES, WINDOW, BATCH = 48000, 8192, 256, 64, 4, 512


def epoch_order(epoch, images=IMAGES):
    """Of each position of an epoch, its image's place in the stored order and its block."""
    counts = [min(SHARD, images - start) for start in range(0, images, SHARD)]
    shards = [
        Shard(name=f"{n}.tar", count=c, bytes=512, sha256="0" * 64, offsets=[0, 512])
        for n, c in enumerate(counts)
    ]
    table = BlockTable.of(shards, BLOCK)
    begins = np.concatenate([[0], np.cumsum(table.count)])
    plan = Epoch(table, LANES, WINDOW, seed=0, epoch=epoch)
    order = np.empty(images, np.int64)
    for lane in range(LANES):
        begin, end = plan.lane_bounds(lane)
        place = 0
        while place < end - begin:
            window = plan.window(lane, place)
            stored = np.concatenate(
                [np.arange(p.first, p.last) + begins[p.block] for p in window.pieces]
            )
            order[lane + LANES * np.arange(window.first, window.last)] = stored[window.order]
            place = window.last
    return order


@pytest.mark.parametrize("images", [IMAGES, 10 * IMAGES])
def test_images_travel_as_far_as_in_a_full_shuffle(images):
    """In a full shuffle an image's mean distance between two epochs is a third of the epoch."""
    where = [np.argsort(epoch_order(epoch, images)) for epoch in (0, 1)]
    distance = np.abs(where[0] - where[1]).mean() / images
    assert distance == pytest.approx(1 / 3, abs=0.06 if images == IMAGES else 0.03)


def test_a_batch_comes_from_many_blocks():
    order = epoch_order(0, 10 * IMAGES)
    blocks = [len(np.unique(b // BLOCK)) for b in order[: 900 * BATCH].reshape(-1, BATCH)]
    assert np.mean(blocks) > 200


def test_neighbours_part():
    """Images stored side by side seldom share a batch: at random 1 pair in 94 would."""
    where = np.argsort(epoch_order(0)) // BATCH
    together = (where[1:] == where[:-1]).mean()
    assert together < 0.02


def test_classes_stored_in_order_are_mixed():
    """Even a set stored class by class gives batches of nearly the right shares."""
    labels = np.arange(IMAGES) * 10 // IMAGES
    batches = labels[epoch_order(0)][: IMAGES // BATCH * BATCH].reshape(-1, BATCH)
    shares = np.stack([(batches == label).mean(1) for label in range(10)])
    assert np.abs(shares - 0.1).max() < 0.06
