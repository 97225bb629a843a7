"""What only a GPU can show of whole parts: graphs, memory, several cards, cuML, an evaluation."""

import contextlib
import copy
import json
import os
import shutil

import numpy as np
import pytest
import torch

from tests.gpu.test_gpu import SHAPE, batch, objective_of


def gradients(module, images, noise):
    module.combine(module(images, noise, None, False)).sum().backward()


def test_forward_and_backward_are_captured_and_replayed(device):
    """One CUDA graph, replayed on other images, gives the gradients of the calls one by one."""
    captured = objective_of("fc_conv").to(device)
    plain = copy.deepcopy(captured)
    images = torch.zeros(64, *SHAPE, device=device)
    noise = torch.zeros(64, 1, 4, device=device)
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            gradients(captured, images, noise)
    torch.cuda.current_stream().wait_stream(aside)
    captured.zero_grad(set_to_none=True)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        gradients(captured, images, noise)
    for step in range(3):
        images.copy_(batch(device, step).images.float() / 255)
        noise.copy_(torch.randn(noise.shape, generator=torch.Generator().manual_seed(step)))
        graph.replay()
        plain.zero_grad(set_to_none=True)
        gradients(plain, images, noise)
        for one, other in zip(captured.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_compiled_with_graphs_gives_the_same_gradients(device):
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")):
        pytest.skip("no C compiler here")
    plain = objective_of("fc_conv").to(device)
    compiled = copy.deepcopy(plain)
    compiled.compile(mode="reduce-overhead", fullgraph=True)
    noise = torch.zeros(64, 1, 4, device=device)
    for step in range(4):
        images = batch(device, step).images.float() / 255
        torch.compiler.cudagraph_mark_step_begin()
        for module in (plain, compiled):
            module.zero_grad(set_to_none=True)
            gradients(module, images, noise)
        for one, other in zip(compiled.parameters(), plain.parameters(), strict=True):
            scale = other.grad.abs().max().item() + 1e-6
            assert (one.grad - other.grad).abs().max().item() < 2e-3 * scale


def test_a_micro_batch_is_found_and_fits(device):
    """On a card most of which is taken, so that it cannot be the whole batch."""
    pytest.importorskip("tyro")
    from vae_dist.memory.estimate import estimate
    from vae_dist.memory.search import HEADROOM, Probe, find_micro_batch

    objective, largest = objective_of("conv").to(device), 1 << 18
    need = estimate(objective, image_shape=SHAPE, local_batch=largest, global_batch=largest)
    free, total = torch.cuda.mem_get_info(device)
    left = int(HEADROOM * total) + need.inputs + (2 << 30)
    taken = torch.empty(max(0, free - left), dtype=torch.uint8, device=device)
    probe = Probe(objective, need, SHAPE, 1, contextlib.nullcontext)
    try:
        found = find_micro_batch(probe, largest)
        assert 0 < found < largest
        probe(found)
    finally:
        del taken
        torch.cuda.empty_cache()


def test_several_cards_walk_the_path_of_one(device, tmp_path):
    """NCCL: the curves of two GPUs are those of one."""
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    for module in ("tyro", "webdataset"):
        pytest.importorskip(module)
    from tests.data_folders import digits, written
    from tests.training_runs import metrics, torchrun

    data = written(tmp_path / "data", digits())
    script = "tests/training_runs.py"
    curves = {}
    for world in (1, 2):
        out = tmp_path / f"world{world}"
        done = torchrun(world, script, out, data.path, 96, "plain", "accumulate")
        assert done.returncode == 0, done.stderr[-2000:]
        curves[world] = [r for name in ("plain", "accumulate") for r in metrics(out / name)]
    assert len(curves[1]) == len(curves[2])
    for one, two in zip(curves[1], curves[2], strict=True):
        for name in ("loss", "recon", "kl"):
            assert two[name] == pytest.approx(one[name], rel=1e-3), one


def test_cuml_agrees_with_the_cpu(device):
    """PCA up to sign, neighbours and trustworthiness, on scikit-learn's digits."""
    pytest.importorskip("cuml")
    from sklearn.datasets import load_digits

    from evaluation.backends.cpu import CpuBackend
    from evaluation.backends.cuml import CumlBackend

    rows = load_digits().data.astype(np.float32)
    train, test = rows[:1500], rows[1500:]
    gpu, cpu = CumlBackend(), CpuBackend()
    gpu.probe()
    here, there = gpu.pca(gpu.put(train), 5), cpu.pca(cpu.put(train), 5)
    ours = np.abs(to_host(here.transform(gpu.put(test), 5)))
    theirs = np.abs(to_host(there.transform(cpu.put(test), 5)))
    assert np.allclose(ours, theirs, rtol=1e-2, atol=0.05)
    mine, plain = (b.graph(b.put(train), b.put(test), 10, 0) for b in (gpu, cpu))
    for split in ("train", "test"):  # in order, the nearest first
        ours_of, theirs_of = (
            (getattr(g, f"{split}_index"), getattr(g, f"{split}_distance")) for g in (mine, plain)
        )
        assert np.mean(ours_of[0] == theirs_of[0]) > 0.9  # some are as far as others
        assert np.allclose(ours_of[1], theirs_of[1], rtol=1e-3, atol=1e-2)
    flat = theirs[:, :2].copy()
    trust = [float(b.trustworthiness(b.put(test), b.put(flat), 5)) for b in (gpu, cpu)]
    assert trust[0] == pytest.approx(trust[1], abs=0.01)


def to_host(array):
    return array.get() if hasattr(array, "get") else np.asarray(array)


def test_a_run_is_trained_and_evaluated(device, tmp_path, capsys):
    """By the commands, with the images on the GPU by themselves."""
    for module in ("tyro", "webdataset", "rich"):
        pytest.importorskip(module)
    from launch.cli import main
    from tests.data_folders import digits, written

    data, runs, out = (
        written(tmp_path / "data", digits()).path,
        tmp_path / "runs",
        tmp_path / "eval",
    )
    words = ["--data", str(data), "--runs-dir", str(runs), "--name", "gpu", "--epochs", "2"]
    words += ["--batch-size", "128", "--model-type", "fc", "--tensorboard", "False"]
    assert main(["train", *words]) == 0
    assert "held on the GPU" in capsys.readouterr().out
    words = ["--runs", str(runs / "gpu"), "--data", str(data), "--out", str(out)]
    assert main(["evaluate", *words, "--protocol", "quick"]) == 0
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert all(np.isfinite(row["value"]) for row in rows if row["value"] is not None)
    assert len(rows) > 10
