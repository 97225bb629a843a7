"""Optimizers and schedules."""

import copy
from itertools import pairwise

import pytest
import torch

from vae_dist.train.optim import (
    OptimConfig,
    build_optimizer,
    build_scheduler,
    lr_factor_at,
    scaled_lr,
)


def rates(config: OptimConfig, steps: int, per_epoch: int, batch_size: int = 64) -> list[float]:
    parameter = torch.nn.Parameter(torch.ones(1))
    optimizer = build_optimizer([parameter], config, batch_size)
    scheduler = build_scheduler(optimizer, config, per_epoch, steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        parameter.grad = torch.ones(1)
        optimizer.step()
        scheduler.step()
    return seen


def test_milestones_are_those_of_multisteplr_by_epoch() -> None:
    seen = rates(OptimConfig(lr=1.0, m1=2, m2=3), 20, 5)
    assert seen == pytest.approx([1.0] * 10 + [0.1] * 5 + [0.01] * 5)


def test_constant_and_warmup() -> None:
    assert set(rates(OptimConfig(schedule="constant"), 6, 2)) == {1e-3}
    warm = rates(OptimConfig(lr=1.0, schedule="constant", warmup_epochs=2), 10, 2)
    assert warm == pytest.approx([0.2, 0.4, 0.6, 0.8] + [1.0] * 6)


def test_cosine_falls_from_its_peak_to_its_end() -> None:
    seen = rates(OptimConfig(lr=1.0, schedule="cosine", warmup_epochs=1, lr_min=0.1), 24, 4)
    assert seen[4] == pytest.approx(1.0)
    assert all(a > b for a, b in pairwise(seen[4:]))
    assert seen[14] == pytest.approx(0.55)
    config = OptimConfig(schedule="cosine", lr_min=0.1)
    assert lr_factor_at(config, 999, 4, 24) == pytest.approx(0.1)


def test_linear_scaling_follows_the_global_batch() -> None:
    config = OptimConfig(lr=1e-3, lr_scaling="linear", base_batch_size=512)
    assert scaled_lr(config, 2048) == pytest.approx(4e-3)
    assert scaled_lr(OptimConfig(lr=1e-3), 2048) == 1e-3
    assert rates(config, 1, 1, batch_size=2048) == pytest.approx([4e-3])


def test_a_resumed_scheduler_goes_on() -> None:
    config = OptimConfig(lr=1.0, schedule="cosine")
    whole = rates(config, 10, 5)
    optimizer = build_optimizer([torch.nn.Parameter(torch.ones(1))], config, 64)
    scheduler = build_scheduler(optimizer, config, 5, 10)
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    state, weights = scheduler.state_dict(), optimizer.state_dict()
    optimizer = build_optimizer([torch.nn.Parameter(torch.ones(1))], config, 64)
    scheduler = build_scheduler(optimizer, config, 5, 10)
    optimizer.load_state_dict(weights)
    scheduler.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == whole[4]


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "rmsprop", "sgd"])
def test_every_optimizer_descends(optimizer: str, fused: bool) -> None:
    weight = torch.nn.Parameter(torch.full((3,), 2.0))
    config = OptimConfig(optimizer=optimizer, lr=0.05, fused=fused, weight_decay=0.01)
    update = build_optimizer([weight], config, 64)
    for _ in range(50):
        update.zero_grad()
        weight.square().sum().backward()
        update.step()
    assert weight.abs().max() < 1


@pytest.mark.parametrize(
    ("fields", "flag"),
    [
        ({"lr": 0.0}, "--lr"),
        ({"optimizer": "lion"}, "--optimizer lion"),
        ({"m1": 9, "m2": 3}, "--m2"),
        ({"grad_clip": -1.0}, "--grad-clip"),
        ({"schedule": "step"}, "--schedule"),
        ({"base_batch_size": 0}, "--base-batch-size"),
    ],
)
def test_wrong_settings_name_their_flag(fields: dict, flag: str) -> None:
    with pytest.raises(ValueError, match=flag):
        OptimConfig(**fields)


@pytest.mark.parametrize(("name", "decay"), [("adam", 0.0), ("adam", 0.1), ("adamw", 0.1)])
def test_adam_without_preparations_is_torchs_bit_for_bit(name: str, decay: float) -> None:
    """Also where a parameter has no gradient, and resumed from torch's own state."""
    family = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    mine, theirs = ([torch.nn.Parameter(torch.ones(n)) for n in (3, 40, 7)] for _ in range(2))
    ours = build_optimizer(mine, OptimConfig(optimizer=name, weight_decay=decay), 64)
    plain = family(theirs, lr=1e-3, weight_decay=decay, fused=True)
    for step in range(6):
        if step == 3:
            ours.load_state_dict(copy.deepcopy(plain.state_dict()))
        for number, pair in enumerate(zip(mine, theirs, strict=True)):
            drawn = torch.randn(pair[0].shape, generator=torch.Generator().manual_seed(step))
            for one in pair:
                one.grad = None if (number, step % 2) == (2, 1) else drawn.clone()
        ours.step()
        plain.step()
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True)), step
    assert [float(s["step"]) for s in ours.state.values()] == [6, 6, 3]
