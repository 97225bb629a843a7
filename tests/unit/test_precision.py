"""Precision: TF32 both ways, and steps that the fp16 scaler skips."""

import re

import pytest
import torch

from data_pipeline.errors import UserError
from vae_dist.train.accelerator import find_compiler, set_tf32
from vae_dist.train.step import _apply


@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_set_both_ways_for_matrices_and_convolutions(allowed):
    """One run of a process leaves nothing to the next, whatever torch's defaults are."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        for last in (not allowed, allowed):
            set_tf32(last)
        assert torch.backends.cuda.matmul.allow_tf32 is allowed
        assert torch.backends.cudnn.allow_tf32 is allowed
        assert (torch.backends.cudnn.conv.fp32_precision == "tf32") is allowed
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_skipped_by_the_scaler_is_seen_also_with_a_fused_optimizer(fused):
    """The CPU stands for the GPU: torch's scaler and its fused Adam run there as well."""
    weight = torch.nn.Parameter(torch.ones(3))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    optimizer = torch.optim.Adam([weight], fused=fused)
    taken = []
    for factor in (1.0, float("inf"), 1.0):
        before = weight.detach().clone()
        scaler.scale((weight * factor).sum()).backward()
        taken.append(_apply(optimizer, scaler))
        assert torch.equal(before, weight) is not taken[-1]
        optimizer.zero_grad()
    assert taken == [True, False, True]


@pytest.mark.parametrize(("cpu", "named"), [(True, "g++ or clang++"), (False, "gcc or clang")])
def test_compiling_without_a_compiler_is_refused_in_one_line(cpu, named, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=f"--compile True: .*{re.escape(named)}"):
        find_compiler(cpu)
    own = tmp_path / "my-compiler"
    own.touch(mode=0o755)
    monkeypatch.setenv("CXX" if cpu else "CC", "my-compiler")
    assert find_compiler(cpu) == str(own)
