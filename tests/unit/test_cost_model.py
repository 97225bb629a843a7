"""The cost model keeps its limits: one GPU, free and slow networks, tiny parts."""

import pytest

from benchmarks.cost_model import (
    Cluster,
    all_reduce_seconds,
    cpu_step_seconds,
    fixed_and_each,
    step_seconds,
)

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


def test_what_every_step_takes_is_told_from_its_images():
    steps = {size: 0.002 + 2e-5 * size for size in (64, 512, 4096)}
    assert fixed_and_each(steps) == pytest.approx((0.002, 2e-5))
    assert fixed_and_each({512: 0.01}) == (0.0, 0.01 / 512)
    growing = {size: 1e-8 * size**2 for size in (64, 512)}  # would be less than nothing at zero
    assert fixed_and_each(growing)[0] == 0


def test_processes_share_the_cores():
    figures = {"fixed": 0.002, "compute": 0.01, "cores": 2}
    one, two, four = (
        cpu_step_seconds(processes=n, reduction=0.001 * (n > 1), **figures) for n in (1, 2, 4)
    )
    assert (one, two, four) == pytest.approx((0.012, 0.008, 0.010))
