"""A ``.pth.tar`` of the 2018 program is taken whole, or refused in one line."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from data_pipeline.errors import UserError
from tests.unit.test_article2018 import conv_state, fc_state
from vae_dist.run.article2018 import read_article2018
from vae_dist.run.load import load_run


def content(state: dict[str, torch.Tensor], **changes: Any) -> dict[str, Any]:
    numbers = list(range(1000, 1000 + len(state)))  # the program's own were addresses
    moments = {
        n: {"step": 7, "exp_avg": torch.zeros_like(t), "exp_avg_sq": torch.ones_like(t)}
        for n, t in zip(numbers, state.values(), strict=True)
    }
    optimizer = {"state": moments, "param_groups": [{"lr": 1e-3, "params": numbers}]}
    return {"epoch": 3, "state_dict": state, "best_loss": 1.0, "optimizer": optimizer, **changes}


def saved(path: Path, held: Any, *, zipped: bool = False) -> Path:
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("state", [fc_state, conv_state])
def test_both_formats_are_read(tmp_path: Path, state: Any, zipped: bool) -> None:
    held = read_article2018(saved(tmp_path / "a.pth.tar", content(state()), zipped=zipped))
    assert held.epoch == 3
    assert held.model.model_type == ("fc" if state is fc_state else "fc_conv")
    assert len(held.moments) == 10
    assert all(torch.equal(held.weights[name], value) for name, value in state().items())


def _optimizer(**changes: Any) -> dict[str, Any]:
    optimizer = content(fc_state())["optimizer"]
    optimizer["state"][1000] |= changes
    return optimizer


def _with(**changes: Any) -> dict[str, Any]:
    return {k: v for k, v in (fc_state() | changes).items() if v is not None}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"epoch": -1}, "epoch is -1"),
        ({"epoch": 2.5}, "epoch is 2.5"),
        ({"epoch": None}, "epoch is None"),
        ({"epoch": True}, "epoch is True"),
        ({"state_dict": [1]}, "no state_dict"),
        ({"state_dict": _with(**{"fc4.bias": None})}, "fc4.bias"),
        ({"state_dict": _with(more=torch.zeros(1))}, "more"),
        ({"state_dict": _with(**{"fc4.bias": torch.zeros(783)})}, "fc4.bias: has the shape"),
        ({"state_dict": _with(**{"fc4.bias": torch.zeros(784).int()})}, "fc4.bias: is not"),
        ({"state_dict": _with(**{"fc3.bias": torch.full((400,), torch.nan)})}, "fc3.bias: has"),
        ({"state_dict": _with(**{"fc3.bias": torch.full((400,), 1e30)})}, "fc3.bias: has values"),
        ({"state_dict": _with(**{"fc4.bias": torch.zeros(1).expand(784)})}, "in one piece"),
        ({"optimizer": 3}, "not the state of Adam"),
        ({"optimizer": {"state": {1: {}}, "param_groups": [{"params": [1]}]}}, "1 entries for 10"),
        ({"optimizer": _optimizer(exp_avg=torch.zeros(3))}, "fc1.weight, exp_avg: has the shape"),
        ({"optimizer": _optimizer(exp_avg_sq=-torch.ones(400, 784))}, "has negative values"),
        ({"optimizer": _optimizer(step="7")}, "step: is '7'"),
    ],
)
def test_what_is_not_as_it_should_be_is_named(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = saved(tmp_path / "a.pth.tar", content(fc_state(), **changes))
    for read in (read_article2018, load_run):
        with pytest.raises(UserError, match=told) as caught:
            read(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("zipped", [False, True])
def test_damaged_files_are_refused_and_nothing_of_torch_is_said(
    tmp_path: Path, zipped: bool
) -> None:
    """Cut anywhere, grown, or one changed byte: refused; in the old format, or read the same.

    A changed number within a tensor of the old format is the exception: it cannot be seen.
    """
    whole = io.BytesIO()
    torch.save(content(conv_state()), whole, _use_new_zipfile_serialization=zipped)
    data, path, rng = whole.getvalue(), tmp_path / "a.pth.tar", random.Random(1)
    damaged = [b"", b"<html>not found</html>", rng.randbytes(3000), data + b"\0" * 5]
    damaged += [data[: rng.randrange(len(data))] for _ in range(15)]
    for text in damaged if not zipped else damaged[:3] + damaged[4:]:
        path.write_bytes(text)
        with pytest.raises(UserError) as caught:
            read_article2018(path)
        assert "weights_only" not in str(caught.value)
        assert "\n" not in str(caught.value)
    good = conv_state()
    for _ in range(30 if zipped else 0):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        path.write_bytes(changed)
        with contextlib.suppress(UserError):
            held = read_article2018(path)
            assert all(torch.equal(held.weights[name], value) for name, value in good.items())


def test_a_file_that_would_run_code_is_refused(tmp_path: Path) -> None:
    import pickle

    class Touch:
        def __reduce__(self) -> Any:
            return (open, (str(tmp_path / "touched"), "w"))

    path = tmp_path / "a.pth.tar"
    path.write_bytes(pickle.dumps({"epoch": 1, "state_dict": Touch()}))
    with pytest.raises(UserError) as caught:
        read_article2018(path)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "touched").exists()
