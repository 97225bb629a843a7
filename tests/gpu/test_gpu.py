"""What only a GPU can show: the same numbers as on the CPU, nothing waited for, and its speed.

``make test-gpu`` runs this; what is not installed is skipped. Speeds go into the file that
GPU_RESULTS names (build/gpu.json).
"""

import contextlib
import copy
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_pipeline.batch import Batch
from data_pipeline.philox import Draws, normal, philox, uniform
from data_pipeline.values import Values

KNOWN = (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)  # Random123: counter and key zero
SHAPE = (1, 28, 28)


def batch(device, step=0, count=64):
    pixels = np.random.default_rng(step).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    images = torch.from_numpy(pixels).to(device)
    labels = torch.zeros(count, dtype=torch.int64, device=device)
    place = torch.arange(count)
    return Batch(images, labels, place, place, size=count, epoch=0, step=step)


def objective_of(name, **loss):
    pytest.importorskip("tyro")
    from vae_dist.losses import LossConfig
    from vae_dist.models import ModelConfig, build_model
    from vae_dist.objective import Objective

    torch.manual_seed(0)
    config = ModelConfig(model_type=name, latent_size=4, model_multiplier=0.5, conv_width=8)
    return Objective(build_model(config, SHAPE, 10), LossConfig(**loss))


def test_philox_gives_known_answers_and_the_cpus_bits(device):
    zero = torch.zeros(1, dtype=torch.int64, device=device)
    assert tuple(int(w) for w in philox((zero,) * 4, (0, 0))) == KNOWN
    for form in (normal, uniform):
        here = Draws(3, "noise", 10, device, form)
        there = Draws(3, "noise", 10, torch.device("cpu"), form)
        for step in (0, 1, 40):
            ours, theirs = (d(batch(x, step)) for d, x in ((here, device), (there, "cpu")))
            assert torch.equal(ours.cpu(), theirs)


def test_philox_compiled_gives_the_same_bits(device):
    place = torch.arange(4096, device=device)
    draw = lambda p: normal(philox((p, p, p, p), (1, 2))[0])  # noqa: E731
    assert torch.equal(torch.compile(draw)(place), draw(place))


@pytest.mark.parametrize("loss", ["bce", "mse", "ssim"])
@pytest.mark.parametrize("name", ["fc", "fc_conv", "fcn", "fcns", "fcns_1n", "conv"])
def test_losses_and_gradients_are_the_cpus(device, name, loss):
    there = objective_of(name, image_loss_type=loss)
    here = copy.deepcopy(there).to(device)
    images, noise = torch.rand(8, *SHAPE), torch.randn(8, 1, 4)
    for module, where in ((there, "cpu"), (here, device)):
        terms = module(images.to(where), noise.to(where))
        module.combine(terms).sum().backward()
    largest = max(p.grad.abs().max().item() for p in there.parameters() if p.grad is not None)
    for (key, one), other in zip(there.named_parameters(), here.parameters(), strict=True):
        if one.grad is not None:  # that of a bias before a normalisation is 0, and rounded
            scale = one.grad.abs().max().item() + 1e-3 * largest
            worst = (one.grad - other.grad.cpu()).abs().max().item()
            assert worst < 2e-3 * scale, key


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near(device, dtype):
    objective = objective_of("fc_conv").to(device)
    images = torch.rand(64, *SHAPE, device=device)
    wide = objective(images).recon.mean()
    with torch.autocast("cuda", dtype=dtype):
        narrow = objective(images).recon.mean()
    assert narrow.dtype == torch.float32
    assert narrow.item() == pytest.approx(wide.item(), rel=0.01)


def state_on(device, graphs=True, name="fc_conv"):
    """A training state of one process on the GPU."""
    pytest.importorskip("tyro")
    from vae_dist.models import ModelConfig
    from vae_dist.train.graph import StepGraphs
    from vae_dist.train.settings import RunConfig, Settings
    from vae_dist.train.state import TrainState

    accelerator = SimpleNamespace(
        device=device,
        process_index=0,
        num_processes=1,
        scaler=None,
        no_sync=lambda module: contextlib.nullcontext(),
        clip_grad_norm_=torch.nn.utils.clip_grad_norm_,
    )
    settings = Settings(run=RunConfig(batch_size=64), model=ModelConfig(model_type=name))
    manifest = SimpleNamespace(
        image_shape=SHAPE, classes=range(10), mean=[0.3], std=[0.3], values=Values(), layout="block"
    )
    state = TrainState(settings, manifest, accelerator, 100)
    if graphs:
        state.graphs = StepGraphs(state.compute, state.parameters)
    return state


@pytest.mark.parametrize("graphs", [True, False])
def test_nothing_is_waited_for_in_100_steps(device, graphs):
    from vae_dist.train.step import train_step

    state = state_on(device, graphs)
    batches = [batch(device, step) for step in range(110)]
    for i, each in enumerate(batches[:10]):
        train_step(state, each, measure=i % 2 == 0, with_ssim=True)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for i, each in enumerate(batches[10:]):
            found = train_step(state, each, measure=i % 10 == 9, with_ssim=i % 50 == 49)
            if found is not None:
                reading = state.begin_reading(found.sums, state.kl_weight)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    means, _ = reading.read()
    assert np.isfinite(means["loss"])


@pytest.mark.parametrize("name", ["fc", "fc_conv", "fcn", "fcns", "fcns_1n", "conv"])
def test_recorded_steps_have_the_bits_of_the_others(device, name, monkeypatch):
    """With a short batch among them, and others computed between; no warning is given."""
    from vae_dist.train.step import train_step

    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)  # as --deterministic does
    plain, recorded = (state_on(device, graphs, name) for graphs in (False, True))
    for step in range(12):
        given = batch(device, step, count=40 if step in (5, 11) else 64)
        for state in (plain, recorded):
            found = train_step(state, given, measure=step % 4 == 0, with_ssim=step == 8)
            state.counters.step += 1
            if found is not None:
                state.begin_reading(found.sums)
    assert not recorded.graphs.refused
    for one, other in zip(plain.parameters, recorded.parameters, strict=True):
        assert torch.equal(one, other)


def test_the_card_is_read(device):
    pytest.importorskip("pynvml")
    from vae_dist.telemetry.choose import open_device

    torch.zeros(1 << 20, device=device)
    watched = open_device("auto", device)
    assert watched.uuid
    assert any(isinstance(v, int | float) and v > 0 for v in watched.read().values())
    watched.close()


def test_out_of_memory_is_told_from_other_errors(device):
    pytest.importorskip("tyro")
    from vae_dist.failures.out_of_memory import is_out_of_memory

    with pytest.raises(torch.OutOfMemoryError) as caught:
        torch.empty(1 << 50, dtype=torch.uint8, device=device)
    assert is_out_of_memory(caught.value)


def seconds(work, repeats=50):
    for _ in range(5):
        work()
    torch.cuda.synchronize()
    begun = time.perf_counter()
    for _ in range(repeats):
        work()
    torch.cuda.synchronize()
    return (time.perf_counter() - begun) / repeats


def test_speeds_are_written_down(device):
    found = {"gpu": torch.cuda.get_device_name(device), "torch": torch.__version__}
    for count, columns in ((512, 10), (4096, 10), (4096, 4096)):
        draws = Draws(0, "noise", columns, device)
        given, step = batch(device, count=count), iter(range(10**6))
        found[f"draw_{count}x{columns}"] = {
            "philox": seconds(lambda: draws(batch_at(given, next(step))), 64),  # noqa: B023
            "randn": seconds(lambda: torch.randn(count, columns, device=device)),  # noqa: B023
        }
    from vae_dist.train.step import train_step

    for name in ("fc_conv", "conv"):
        for count in (64, 512, 4096):
            for graphs in (False, True):
                state, given = state_on(device, graphs, name), batch(device, count=count)
                step = f"step_{name}_{count}{'_graph' if graphs else ''}"
                found[step] = seconds(lambda: train_step(state, given, measure=False))  # noqa: B023
    path = Path(os.environ.get("GPU_RESULTS", "build/gpu.json"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1) + "\n")


def batch_at(given, step):
    import dataclasses

    return dataclasses.replace(given, step=step)
