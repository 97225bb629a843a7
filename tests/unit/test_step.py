"""One step: nothing is read back, parts change nothing, figures come a window late."""

import contextlib
import os
import resource
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.step_parts import Counting
from data_pipeline.batch import Batch
from data_pipeline.files import write_json
from data_pipeline.order import World
from data_pipeline.values import Values
from vae_dist.losses import LossConfig
from vae_dist.memory.allocator import keep_freed_memory
from vae_dist.models import MODELS, ModelConfig
from vae_dist.sinks import LogConfig
from vae_dist.train.readings import NonFiniteLoss
from vae_dist.train.settings import RunConfig, Settings
from vae_dist.train.signals import MOST_CALLS, Agreement, StopRequest
from vae_dist.train.state import TrainState
from vae_dist.train.step import train_step

SHAPE = (1, 28, 28)
SMALL = {"latent_size": 3, "model_multiplier": 0.5, "conv_width": 8}


def make(autocast=None, loss=None, model="fc_conv", fields=None, **run):
    """A state without processes."""
    accelerator = SimpleNamespace(
        device=torch.device("cpu"),
        process_index=0,
        num_processes=1,
        scaler=None,
        no_sync=lambda module: contextlib.nullcontext(),
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
    )
    settings = Settings(
        run=RunConfig(batch_size=12, **run),
        model=ModelConfig(model_type=model, **{**SMALL, **(fields or {})}),
        loss=loss or LossConfig(),
    )
    manifest = SimpleNamespace(
        image_shape=SHAPE, classes=range(10), mean=[0.3], std=[0.3], values=Values(), layout="block"
    )
    state = TrainState(settings, manifest, accelerator, 10)
    if autocast:

        def module(*inputs):
            with torch.autocast("cpu", dtype=autocast):
                return state.objective(*inputs)

        state.module = module
    return state


def batch(step=0, count=12):
    pixels = np.random.default_rng(step).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    images = torch.from_numpy(pixels)
    labels, place = torch.zeros(count, dtype=torch.int64), torch.arange(count)
    return Batch(images, labels, place, place, size=count, epoch=0, step=step)


def gradients(state):
    """Those that a step gives the optimizer."""
    found = []
    state.optimizer.step = lambda: found.extend(p.grad.clone() for p in state.parameters)
    state.scheduler.step = lambda: None
    train_step(state, batch(), measure=False)
    return found


LOSSES = {
    "bce": LossConfig(),
    "mse": LossConfig(image_loss_type="mse"),
    "ssim": LossConfig(image_loss_type="ssim"),
    "mixture": LossConfig(prior="mixture", prior_components=2),
    "vamp": LossConfig(prior="vamp", prior_components=2),
    "flow": LossConfig(prior="flow", prior_couplings=2),
    "iwae": LossConfig(objective="iwae", importance_samples=2),
    "free_bits": LossConfig(free_bits=0.1),
    "balance": LossConfig(do_running_mean=True),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "loss"), [*((m, "bce") for m in MODELS), *(("fc_conv", name) for name in LOSSES)]
)
def test_a_step_reads_nothing_back(model, loss):
    """Of no tensor but the positions, which lie on the CPU, does the host ask for a value."""
    state = make(loss=LOSSES[loss], model=model, accumulate=2)
    with Counting() as counting:
        train_step(state, batch(), measure=False)
        found = train_step(state, batch(step=1), measure=True, with_ssim=True)
        state.begin_reading(found.sums, state.kl_weight)
    assert set(counting.reads) <= {"equal"}


@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_nor_does_another_precision(precision):
    state = make(autocast=precision)
    train_step(state, batch(), measure=False)
    with Counting() as counting:
        train_step(state, batch(step=1), measure=True, with_ssim=True)
    assert set(counting.reads) <= {"equal"}
    assert len(counting.calls) < 330


def test_calls_of_a_step():
    """240 calls, 117 of which compute, were needed before."""
    state = make()
    for step in range(2):
        with Counting() as counting:
            train_step(state, batch(step=step), measure=False)
    assert len(counting.calls) < 170
    assert counting.launches < 70


def test_a_large_batch_in_parts_changes_nothing():
    whole, parts = make(), make()
    parts.images_at_once = 5
    for step in range(3):
        for state in (whole, parts):
            train_step(state, batch(step=step), measure=False)
            state.counters.step += 1
    for one, other in zip(whole.parameters, parts.parameters, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    whole, parts = (train_step(state, batch(step=3), measure=True).sums for state in (whole, parts))
    torch.testing.assert_close(whole, parts, rtol=1e-6, atol=0)
    assert whole[3] == 12


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_whose_value_is_not_asked_for_changes_the_weights_alike(name):
    """Bit for bit."""
    one, other = make(loss=LOSSES[name]), make(loss=LOSSES[name])
    for step in range(4):
        for state, measure in ((one, True), (other, False)):
            train_step(state, batch(step=step), measure=measure)
            state.counters.step += 1
    assert all(map(torch.equal, one.parameters, other.parameters))
    assert bool(other.epoch_sums.any()) == (not other.objective.gradient_suffices)


@pytest.fixture
def group():
    """A process group of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_checkpointed_activations_give_the_same_gradients_under_ddp_and_accumulation(group):
    """Bit for bit: micro-batches without a reduction, and then one with it."""
    found = []
    for again in (False, True):
        state = make(model="conv", fields={"checkpoint_activations": again}, accumulate=3)
        state.module = DistributedDataParallel(state.objective)
        state.world = World(0, 2)  # so that a step waits with its reduction
        state.accelerator.no_sync = lambda module: module.no_sync()
        found.append(gradients(state))
    assert len(found[0]) > 20
    assert all(map(torch.equal, *found))


def test_figures_are_those_of_their_step_however_late_they_are_read():
    state = make()
    found = train_step(state, batch(), measure=True, with_ssim=True)
    state.counters.step += 1
    early = state.begin_reading(found.sums, 0.25)
    expected = early.read()
    train_step(state, batch(step=1), measure=False)
    late = early.read()
    assert late == expected
    assert set(expected[0]) == {"loss", "recon", "kl", "ssim"}
    assert expected[1] == [0.25]


@pytest.mark.parametrize(
    ("loss", "where", "value"),
    [("bce", 0, torch.nan), ("bce", -1, torch.nan), ("bce", -1, torch.inf), ("mse", 0, torch.nan)],
)
def test_a_loss_that_is_not_finite_is_named_a_log_line_late(loss, where, value):
    """Though its value was not computed."""
    state = make(loss=LOSSES[loss])
    for step in range(3):
        if step == 1:
            with torch.no_grad():
                state.parameters[where].fill_(value)
        found = train_step(state, batch(step=step), measure=step == 2)
        state.counters.step += 1
    with pytest.raises(NonFiniteLoss, match="1"):
        state.check_finite()
    reading = state.begin_reading(found.sums)
    train_step(state, batch(step=3), measure=False)
    state.counters.step += 1
    with pytest.raises(NonFiniteLoss, match="1"):
        reading.read()


def test_ssim_is_not_taken_more_often_than_every_fifty_steps():
    every = {n: LogConfig(log_every=n).ssim_every for n in (1, 10, 30, 50, 94)}
    assert every == {1: 50, 10: 50, 30: 60, 50: 50, 94: 94}


def test_ranks_exchange_less_often_where_steps_are_fast(monkeypatch):
    """And see a request at the reduction after the next."""
    started = []

    class Work:
        def wait(self):
            pass

    def all_reduce(told, op, group, async_op):
        told[1] = 1e-3  # the slowest rank's time for a step
        started.append(told)
        return Work()

    monkeypatch.setattr("torch.distributed.new_group", lambda **_: None)
    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    request = StopRequest()
    agreement = Agreement(request, World(0, 2))
    calls = 0
    while len(started) < 6:
        assert not agreement.poll()
        calls += 1
    assert calls == 2 + 4 * MOST_CALLS
    request.reason = "SIGTERM"
    for _ in range(2 * MOST_CALLS):
        if agreement.poll():
            break
    else:
        pytest.fail("the request was not seen")


def test_status_need_not_reach_the_disk(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(os, "fsync", synced.append)
    write_json(tmp_path / "a.json", {}, durable=False)
    assert not synced
    write_json(tmp_path / "a.json", {})
    assert synced


def test_freed_memory_is_kept():
    """A step's temporaries are not faulted in again."""
    keep_freed_memory()

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        kept = [torch.zeros(500_000) for _ in range(5)]
        del kept
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert min(faults() for _ in range(5)) < 100  # 10 MB are 2,442 pages


def test_a_validation_that_is_not_a_number_is_never_the_best():
    """Nothing would be below it, and so nothing better ever found."""
    state = make()
    assert [state.judge(score) for score in (float("nan"), 3.0, float("nan"), 2.0)] == [
        False,
        True,
        False,
        True,
    ]
    assert state.best == 2.0
