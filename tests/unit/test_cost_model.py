"""The cost model keeps its limits: one GPU, free and slow networks, tiny parts."""

import pytest

from benchmarks.cost_model import Cluster, all_reduce_seconds, step_seconds

STEP = {"compute": 0.08, "floor": 0.001, "gradient_bytes": 4e6, "cluster": Cluster()}


def test_one_gpu_reduces_nothing():
    assert all_reduce_seconds(4e9, 1, Cluster()) == 0
    assert step_seconds(gpus=1, **STEP) == 0.08


def test_large_gradients_go_at_the_slowest_link():
    within, across = (all_reduce_seconds(4e9, n, Cluster()) for n in (8, 16))
    assert within == pytest.approx(2 * 7 / 8 * 4e9 / 300e9, rel=0.01)
    assert across == pytest.approx(2 * 15 / 16 * 4e9 / 40e9, rel=0.01)


def test_more_gpus_help_until_launches_and_hops_are_all_there_is():
    times = [step_seconds(gpus=n, **STEP) for n in (1, 8, 16, 32, 64)]
    assert times == sorted(times, reverse=True)
    small = STEP | {"compute": 0.004}
    assert step_seconds(gpus=64, **small) > step_seconds(gpus=8, **small) > 0.001


def test_what_is_hidden_costs_nothing():
    assert step_seconds(gpus=8, overlap=1.0, **STEP) == 0.01
