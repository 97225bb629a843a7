"""A training is the same on 1, 2 and 4 processes, and after a resume on another number."""

import json
import math
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.data_folders import digits, written
from tests.training_runs import LEAST_ROOM, SCENARIOS, environment, metrics, torchrun

pytestmark = [pytest.mark.timeout(900)]

FIGURES = ("loss", "recon", "kl", "ssim", "psnr", "elbo", "grad_norm", "lr")


class Runs:
    """All scenarios on each world size, made once for the tests of this file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        data = written(folder / "data", digits(), folds=4, block_size=32, samples_per_shard=300)
        bad = shutil.copytree(folder / "data", folder / "data_bad") / "train-000001.tar"
        content = bytearray(bad.read_bytes())
        content[len(content) // 2] ^= 1
        bad.write_bytes(content)
        self.count = data.manifest.splits["train"].count
        # The last batch holds 1 to 3 images: fewer than four processes.
        self.batch = next(b for b in range(240, 400) if 0 < self.count % b < 4)
        for world in (1, 2, 4):
            names = [*SCENARIOS, *(["resumed"] if world > 1 else [])]
            script = Path(__file__).parent.parent / "training_runs.py"
            out = folder / f"world{world}"
            done = torchrun(world, script, out, data.path, self.batch, *names)
            assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    def path(self, world: int, name: str) -> Path:
        return self.folder / f"world{world}" / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def assert_same_curves(a: Path, b: Path, tolerance: float) -> None:
    ours, theirs = metrics(a), metrics(b)
    assert [(r["split"], r["step"]) for r in ours] == [(r["split"], r["step"]) for r in theirs]
    for one, two in zip(ours, theirs, strict=True):
        for name in FIGURES:
            if one.get(name) is not None:
                assert one[name] == pytest.approx(two[name], rel=tolerance, abs=1e-6), (name, one)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("name", SCENARIOS)
def test_losses_do_not_depend_on_the_world_size(runs: Runs, name: str, world: int) -> None:
    assert_same_curves(runs.path(world, name), runs.path(1, name), 1e-4)


@pytest.mark.parametrize("world", [2, 4])
def test_validation_counts_every_image_once(runs: Runs, world: int) -> None:
    alone, together = (metrics(runs.path(w, "plain"), "val") for w in (1, world))
    assert alone[0]["images"] % 4
    assert [r["images"] for r in together] == [r["images"] for r in alone]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_every_process_count_takes_the_same_steps(runs: Runs, world: int) -> None:
    steps = -(-runs.count // runs.batch)
    assert metrics(runs.path(world, "plain"), "train")[-1]["step"] == 2 * steps


def test_accumulation_changes_nothing(runs: Runs) -> None:
    assert_same_curves(runs.path(2, "accumulate"), runs.path(1, "plain"), 1e-4)


@pytest.mark.parametrize("world", [2, 4])
def test_all_ranks_take_the_smallest_micro_batch_that_any_found(runs: Runs, world: int) -> None:
    status = json.loads((runs.path(world, "uneven_memory") / "status.json").read_text())
    largest_part = math.ceil(runs.batch / world)
    assert status["memory"]["accumulate"] == math.ceil(largest_part / LEAST_ROOM)


def test_scenarios_differ(runs: Runs) -> None:
    """The other tests could not fail if every scenario ran the same training."""
    last = {name: metrics(runs.path(1, name), "train")[-1]["loss"] for name in SCENARIOS}
    last.pop("accumulate")
    last.pop("stream_workers", None)
    last.pop("uneven_memory")
    last.pop("averaged")  # trains as plain does, and validates other weights
    assert len(set(last.values())) == len(last)
    plain, averaged = (metrics(runs.path(1, n), "val")[-1]["loss"] for n in ("plain", "averaged"))
    assert plain != averaged


@pytest.mark.parametrize("world", [1, 2, 4])
def test_a_bad_shard_is_left_out_whole_and_counted(runs: Runs, world: int) -> None:
    status = json.loads((runs.path(world, "bad_shard") / "status.json").read_text())
    assert list(status["left_out"]) == ["train-000001.tar"]
    steps = -(-(runs.count - 300) // runs.batch)
    assert metrics(runs.path(world, "bad_shard"), "train")[-1]["step"] == 2 * steps


@pytest.mark.parametrize("world", [2, 4])
def test_resume_on_another_world_size_walks_the_same_path(runs: Runs, world: int) -> None:
    resumed, whole = runs.path(world, "resumed"), runs.path(1, "plain")
    first = metrics(resumed)[0]["step"]
    assert first % -(-runs.count // runs.batch), "must begin in mid-epoch"
    rest = [r for r in metrics(whole) if r["step"] >= first]
    for one, two in zip(metrics(resumed), rest, strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
    ours, theirs = (
        load_file(p / "checkpoints" / "last" / "model.safetensors") for p in (resumed, whole)
    )
    for name, weight in theirs.items():
        assert (ours[name] - weight).abs().max() < 1e-4, name


def test_expect_world_size_fails_at_once(runs: Runs, tmp_path: Path) -> None:
    import subprocess

    from tests.training_runs import TRAIN

    done = subprocess.run(
        [sys.executable, TRAIN, "--data", runs.folder / "data", "--runs-dir", tmp_path,
         "--expect-world-size", "2"],
        capture_output=True, text=True, env=environment(), timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "--expect-world-size 2: there are 1 processes" in done.stderr
