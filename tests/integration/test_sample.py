"""``vae-dist sample``: pictures of trained runs, and their likelihood."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from launch.cli import main
from tests.data_folders import drawn, written
from tests.training_runs import COMMON, flags
from vae_dist import draw
from vae_dist.grids import Painter, tile
from vae_dist.run.load import load_run

RUNS = {
    "plain": {},
    "conditional": {"conditional": True},
    "vamp": {"prior": "vamp", "prior_components": 3, "image_loss_type": "mse"},
    "mixture": {"prior": "mixture", "latent_size": 1, "image_loss_type": "ssim"},
}
"""Name to flags of the run that is sampled."""
FEW = {"epochs": 1, "checkpoint_every": 0, "batch_size": 40}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    written(root / "data", drawn(shape=(1, 8, 8)))
    for name, more in RUNS.items():
        where = {"data": root / "data", "runs_dir": root, "name": name}
        assert main(["train", *flags({**COMMON, **FEW, **more, **where})]) == 0
    return root


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_drawn_and_measured(
    name: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sample", "--run", str(runs / name), "--out", str(tmp_path)]
    assert main([*words, "--nll-samples", "30", "--nll-images", "4"]) == 0
    assert "negative log-likelihood" in capsys.readouterr().out
    wanted = {"samples", "reconstructions", "interpolations", "traversals", "manifold"}
    wanted |= {"classes"} if name == "conditional" else set()
    assert {path.stem for path in tmp_path.glob("*.png")} == wanted
    for picture in wanted:
        with Image.open(tmp_path / f"{picture}.png") as image:
            assert image.mode == "L"
            assert np.asarray(image).std() > 0
    record = json.loads((tmp_path / "nll.json").read_text())
    assert record["images"] == 4
    assert record["nll"] <= -record["elbo"]
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert main([*words, "--nll-samples", "30", "--nll-images", "4"]) == 0
    assert first == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_reconstructions_stand_under_their_originals(runs: Path) -> None:
    run = load_run(runs / "plain")
    images = torch.rand(7, 1, 8, 8)
    grid = Painter(run.objective).reconstructions(images, torch.zeros(7, dtype=torch.int64), 3)
    assert grid.shape == (4, 3, 1, 8, 8)
    torch.testing.assert_close(grid[0], images[:3])
    torch.testing.assert_close(grid[2], images[3:6])
    terms = run.objective(images)
    torch.testing.assert_close(grid[1], run.objective.mean_image(terms.logits)[:3])


@pytest.mark.parametrize("name", RUNS)
def test_the_samples_are_those_of_the_run(name: str, runs: Path) -> None:
    """``vae-dist sample`` and ``run.sample`` draw the same images from the same seed."""
    run = load_run(runs / name, "cpu")
    grid = Painter(run.objective, seed=3).samples(2, 4).flatten(0, 1)
    np.testing.assert_allclose(grid.numpy(), run.sample(8, seed=3), atol=1e-6)


def test_traversals_move_the_most_active_latent_first(runs: Path) -> None:
    """Each row passes through the first image where its latent has that image's mu."""
    objective = load_run(runs / "plain", "cpu").objective
    z, scale = torch.tensor([0.0, 2.0, -1.0]), torch.tensor([0.5, 1.0, 2.0])
    with torch.no_grad():
        images, latents = draw.traverse(objective, z, scale, 2, 7)
        assert latents.tolist() == [2, 1]
        low = draw.images_of(objective, torch.tensor([[0.0, 2.0, -6.0]]))
        same = draw.images_of(objective, z[None])
    torch.testing.assert_close(images[0, 0], low[0])
    torch.testing.assert_close(images[1, 5], same[0])  # 2.0 is the sixth of -3 to 3


def test_a_grid_keeps_every_pixel() -> None:
    images = torch.arange(2 * 3 * 3 * 4 * 5).reshape(2, 3, 3, 4, 5) / 512
    pixels = tile(images)
    assert pixels.shape == (2 * 4 + 2, 3 * 5 + 2 * 2, 3)
    expected = (images[1, 2] * 255).round().byte().permute(1, 2, 0)
    np.testing.assert_array_equal(pixels[6:10, 14:19], expected)
    assert (pixels[4:6] == 255).all()
    assert tile(images, gap=0).shape == (2 * 4, 3 * 5, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "nowhere"], "nowhere"),
        (["--split", "test", "--data", "nowhere"], "nowhere"),
        (["--nll-samples", "-1"], "--nll-samples"),
        (["--device", "tpu"], "--device tpu"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str], message: str, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["sample", "--run", str(runs / "plain"), "--out", str(tmp_path / "out"), *words]
    assert main(given) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert len(complaint.strip().splitlines()) == 1


def test_images_of_another_shape_are_refused(
    runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "other", drawn(shape=(1, 5, 4)))
    words = ["--run", str(runs / "plain"), "--out", str(tmp_path), "--data"]
    assert main(["sample", *words, str(tmp_path / "other")]) == 2
    assert "the model's" in capsys.readouterr().err


def test_an_out_that_cannot_be_written_is_one_line(runs: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("x")
    words = ["sample", "--run", str(runs / "plain"), "--out", str(tmp_path / "file" / "pictures")]
    assert main(words) == 2
    assert "--out" in capsys.readouterr().err
