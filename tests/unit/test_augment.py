"""Augmentation follows from the counters and the position in the global batch alone."""

import math

import numpy as np
import pytest
import torch

from data_pipeline.batch import Arrays
from data_pipeline.load.augment import Augment, AugmentConfig, rotate
from data_pipeline.load.memory import MemoryLoader
from data_pipeline.order import World

IMAGES = np.random.default_rng(0).integers(0, 256, (64, 1, 9, 9), dtype=np.uint8)


def augmented(world, epoch=0, augment=None):
    """Index to augmented image, of one rank's epoch."""
    arrays = Arrays(IMAGES, np.zeros(64, np.int64), np.arange(64))
    augment = augment or Augment(7)
    return {
        int(i): image
        for batch in MemoryLoader(arrays, 24, world, 3, True).batches(epoch)
        for i, image in zip(batch.index, augment(batch.images / 255, batch), strict=True)
    }


def test_same_on_every_world():
    alone = augmented(World())
    for size in (2, 3, 5):
        together = {}
        for rank in range(size):
            together |= augmented(World(rank, size))
        assert together.keys() == alone.keys()
        assert all(torch.equal(together[i], alone[i]) for i in alone)


def test_differs_by_epoch():
    first, second = augmented(World(), 0), augmented(World(), 1)
    assert sum(torch.equal(first[i], second[i]) for i in first) < 5


def test_flips_and_angles_are_those_of_the_seed():
    arrays = Arrays(np.zeros((4000, 1, 1, 1), np.uint8), np.zeros(4000), np.arange(4000))
    batch = next(MemoryLoader(arrays, 4000, World(), 0, True).batches())
    flipped, angle = Augment(1).parameters(batch, torch.device("cpu"))
    assert flipped.float().mean() == pytest.approx(0.25, abs=0.03)
    assert -30 <= angle.min() < -29
    assert 29 < angle.max() <= 30
    assert angle.std() == pytest.approx(60 / math.sqrt(12), rel=0.05)


def test_flip_alone_mirrors_and_nothing_leaves_the_range():
    images = torch.from_numpy(IMAGES) / 255
    mirrored = augmented(World(), augment=Augment(7, flip_probability=1.0, max_angle=0.0))
    for index, image in mirrored.items():
        assert torch.allclose(image, images[index].flip(-1), atol=1e-5)
    assert all(x.min() >= 0 and x.max() <= 1 for x in augmented(World()).values())


def test_an_empty_part_stays_empty():
    arrays = Arrays(IMAGES[:2], np.zeros(2, np.int64), np.arange(2))
    batch = next(
        b
        for r in range(3)
        for b in MemoryLoader(arrays, 2, World(r, 3), 0, True).batches()
        if len(b) == 0
    )
    assert Augment(0)(batch.images / 255, batch).shape == (0, 1, 9, 9)


def test_rotation_is_the_bilinear_formula():
    """Pixel by pixel in numpy, on uneven shapes; the same as kornia's to 1e-5 (tried with 0.9.0)."""
    rng = np.random.default_rng(1)
    for height, width in ((9, 9), (7, 12), (5, 1)):
        images = rng.random((3, 2, height, width), dtype=np.float32)
        degrees = np.array([-29.0, 0.0, 17.5], np.float32)
        padded = np.pad(images.astype(np.float64), ((0, 0), (0, 0), (99, 99), (99, 99)))
        want = np.zeros(images.shape)
        for n, angle in enumerate(np.deg2rad(degrees)):
            for i in range(height):
                for j in range(width):
                    x, y = j - (width - 1) / 2, i - (height - 1) / 2
                    u = math.cos(angle) * x - math.sin(angle) * y + (width - 1) / 2 + 99
                    v = math.sin(angle) * x + math.cos(angle) * y + (height - 1) / 2 + 99
                    a, b = int(v), int(u)
                    corner = padded[n, :, a : a + 2, b : b + 2]
                    weights = np.outer([1 - (v - a), v - a], [1 - (u - b), u - b])
                    want[n, :, i, j] = (corner * weights).sum((1, 2))
        found = rotate(torch.from_numpy(images), torch.from_numpy(degrees)).numpy()
        np.testing.assert_allclose(found, want, atol=1e-5)


def test_a_quarter_turn_is_counter_clockwise():
    image = torch.arange(9.0).reshape(1, 1, 3, 3)
    turned = rotate(image, torch.tensor([90.0]))
    assert torch.allclose(turned, image.rot90(1, (2, 3)), atol=1e-4)


def test_erased_boxes_are_black_and_the_rest_is_as_it_was():
    config = AugmentConfig(augment="erase", erase_scale="0.1,0.4")
    images = torch.from_numpy(IMAGES) / 255 + 0.001  # nothing is black before
    arrays = Arrays(IMAGES, np.zeros(64, np.int64), np.arange(64))
    batch = next(MemoryLoader(arrays, 64, World(), 3, False).batches(0))
    found = Augment(7, ("erase",), config)(images, batch)
    black = found == 0
    assert torch.equal(found[~black], images[~black])
    share = black.flatten(1).float().mean(1)
    assert 0.05 < share.min() < 0.15 < 0.3 < share.max() < 0.45
    for image in black[:, 0]:  # each is one rectangle
        rows, columns = image.any(1), image.any(0)
        assert torch.equal(image, rows[:, None] & columns)
