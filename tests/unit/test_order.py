"""Seeds, permutations and slices are pure functions that cover everything once."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.order import World, batch_slice, derive_seed, permutation, steps_per_epoch


def test_seeds_differ_by_every_argument():
    seeds = {
        derive_seed(*args) for args in [(0, "a"), (1, "a"), (0, "b"), (0, "a", 1), (0, "a", 1, 1)]
    }
    assert len(seeds) == 5
    assert derive_seed(42, "order", 3) == derive_seed(42, "order", 3)


def test_permutation_follows_from_seed_and_epoch_alone():
    first = permutation(1000, 7, "order", 0)
    assert np.array_equal(first, permutation(1000, 7, "order", 0))
    assert not np.array_equal(first, permutation(1000, 7, "order", 1))
    assert not np.array_equal(first, permutation(1000, 8, "order", 0))
    assert np.array_equal(np.sort(first), np.arange(1000))


@settings(deadline=None)
@given(
    count=st.integers(1, 500),
    batch_size=st.integers(1, 100),
    size=st.integers(1, 8),
)
def test_slices_cover_the_epoch_once(count, batch_size, size):
    covered = []
    for step in range(steps_per_epoch(count, batch_size)):
        for rank in range(size):
            first, last, whole = batch_slice(count, batch_size, step, World(rank, size))
            assert 0 < whole <= batch_size
            assert last - first in (whole // size, whole // size + 1)
            covered += range(first, last)
    assert covered == list(range(count))


@pytest.mark.parametrize(("rank", "size"), [(0, 0), (2, 2), (-1, 1)])
def test_world_refuses_what_cannot_be(rank, size):
    with pytest.raises(ValueError, match="World"):
        World(rank, size)
