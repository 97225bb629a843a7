"""Recorded steps, with a recorder for the CPU: the bits of the steps one by one."""

import copy
import warnings

import pytest
import torch

from tests.unit.test_step import LOSSES, batch, make
from vae_dist.losses import LossConfig
from vae_dist.models.config import ModelConfig
from vae_dist.train.accelerator import PrecisionConfig
from vae_dist.train.graph import StepGraphs, why_not
from vae_dist.train.settings import RunConfig, Settings
from vae_dist.train.step import train_step


class Repeats:
    """Does work again and writes into the tensors of the first time, as a CUDA graph does."""

    def __init__(self, parameters):
        self.parameters, self.recorded = parameters, 0

    def __call__(self, work):
        self.recorded += 1
        (terms, loss), first = work(), [p.grad for p in self.parameters]

        def again():
            new_terms, new_loss = work()
            for old, new in zip((*terms, loss), (*new_terms, new_loss), strict=True):
                if old is not None:
                    old.copy_(new)
            for old, parameter in zip(first, self.parameters, strict=True):
                if old is not None:
                    old.copy_(parameter.grad)

        return (terms, loss), again


WARMUP = {"warmup": LossConfig(kl_warmup=0.5)}


@pytest.mark.parametrize("loss", [*LOSSES, *WARMUP])
def test_recorded_steps_have_the_bits_of_the_others(loss):
    """With the last batch short, figures every third step, and weights of the terms that change."""
    plain, recorded = (make(loss=(LOSSES | WARMUP)[loss]) for _ in range(2))
    recorder = Repeats(recorded.parameters)
    recorded.graphs = StepGraphs(recorded.compute, recorded.parameters, recorder)
    for step in range(7):
        found = []
        for state in (plain, recorded):
            given = batch(step, count=5 if step == 6 else 12)
            found.append(train_step(state, given, measure=step % 3 == 0, with_ssim=True))
            state.counters.step += 1
        one, other = found
        assert (one is None) == (other is None)
        if one is not None:
            assert torch.equal(one.sums, other.sums)
            assert one.norm == other.norm
    for one, other in zip(plain.parameters, recorded.parameters, strict=True):
        assert torch.equal(one, other)
    assert torch.equal(torch.stack(plain.checks), torch.stack(recorded.checks))
    assert recorder.recorded == (3 if plain.objective.gradient_suffices else 2)


def test_what_cannot_be_recorded_is_said_once_and_computed_all_the_same():
    plain, refused = make(), make()

    def record(work):
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    refused.graphs = StepGraphs(refused.compute, refused.parameters, record)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for step in range(3):
            for state in (plain, refused):
                train_step(state, batch(step), measure=step == 1)
                state.counters.step += 1
    (line,) = [str(w.message) for w in said if "CUDA graph" in str(w.message)]
    assert "not permitted when stream is capturing)" in line
    for one, other in zip(plain.parameters, refused.parameters, strict=True):
        assert torch.equal(one, other)


GPU = torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("settings", "world", "device", "reason"),
    [
        ({}, 1, GPU, None),
        ({}, 2, GPU, "several processes"),
        ({}, 1, torch.device("cpu"), "CPU"),
        ({"run": RunConfig(accumulate=2)}, 1, GPU, "micro-batches"),
        ({"precision": PrecisionConfig(cuda_graph="off")}, 1, GPU, "--cuda-graph off"),
        (
            {"precision": PrecisionConfig(compile=True, compile_mode="reduce-overhead")},
            1,
            GPU,
            "makes its own",
        ),
    ],
)
def test_where_there_are_no_graphs_the_reason_is_said(settings, world, device, reason):
    model = ModelConfig(model_type="fc_conv")
    found = why_not(Settings(model=model, **settings), world, device)
    assert found is None if reason is None else reason in found


def test_a_model_of_ones_own_is_recorded_if_asked():
    settings = Settings()
    settings.model = copy.copy(settings.model)
    object.__setattr__(settings.model, "model_type", "mine:Model")
    assert "your own" in why_not(settings, 1, GPU)
    settings.precision.cuda_graph = "on"
    assert why_not(settings, 1, GPU) is None
