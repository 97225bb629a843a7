"""A run of ``--latent-grid`` with 512 latents, through everything that takes a run."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_pipeline.folder import open_data
from evaluation.training import metrics_of, thinned
from launch.cli import main
from launch.monitor.reader import RunReader
from launch.monitor.view import frame
from tests.data_folders import drawn, written
from tests.training_runs import flags, metrics
from vae_dist import grids
from vae_dist.run.load import load_run

GRID = (2, 16, 16)
TRAIN = {
    **{"model_type": "conv", "conv_width": 4, "latent_grid": 2, "latent_factor": 1},
    **{"epochs": 1, "batch_size": 40, "telemetry_interval": 0, "log_every": 1},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder and a run of it."""
    root = tmp_path_factory.mktemp("grid")
    written(root / "data", drawn(shape=(1, 16, 16)), block_size=16)
    where = {"data": root / "data", "runs_dir": root, "name": "run"}
    assert main(["train", *flags({**TRAIN, **where})]) == 0
    return root


def test_the_records_of_training(root: Path) -> None:
    """Every latent's KL is in metrics.jsonl; TensorBoard has no tag for each, curves no list."""
    (validation,) = metrics(root / "run", "val")
    assert len(validation["kl_dim"]) == 512
    assert json.loads((root / "run" / "config.json").read_text())["latent_shape"] == list(GRID)
    events = EventAccumulator(str(root / "run" / "tensorboard"))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert "val_active_units" in tags
    assert not [tag for tag in tags if "kl_dim" in tag]
    assert all("kl_dim" not in record for record in thinned(metrics_of(root / "run")))


def test_the_monitor_shows_the_grid(root: Path) -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    reader = RunReader(root / "run")
    reader.update()
    console.print(frame(reader))
    assert "conv z=2x16x16" in console.export_text()


@pytest.mark.parametrize("out", ["z.npz", "z.parquet", "folder"])
def test_encode_and_decode_take_flat_latents(root: Path, tmp_path: Path, out: str) -> None:
    if out == "z.parquet":
        pytest.importorskip("pyarrow")
    run, data = load_run(root / "run"), open_data(str(root / "data"))
    words = ["--run", str(root / "run")]
    assert (
        main(["encode", *words, "--images", str(root / "data"), "--out", f"{tmp_path}/{out}"]) == 0
    )
    assert (
        main(["decode", *words, "--latents", f"{tmp_path}/{out}", "--out", f"{tmp_path}/b.npz"])
        == 0
    )
    with np.load(tmp_path / "b.npz", allow_pickle=False) as held:
        back, index, split = held["images"], held["index"], held["split"]
    images = data.arrays("test").images
    shown = np.round(run.reconstruct(images) * np.float32(255))
    test = split == "test"
    order = np.argsort(index[test])
    wanted = shown[np.argsort(data.arrays("test").index)]
    assert np.abs(back[test][order] - wanted).max() <= 1
    assert back[test].std() > 0
    if out == "z.npz":
        with np.load(tmp_path / out, allow_pickle=False) as held:
            assert held["mu"].shape == (120, 512)
            assert json.loads(str(held["about"]))["latent_shape"] == list(GRID)


def test_the_next_model_trains_on_the_grid_as_an_image(root: Path, tmp_path: Path) -> None:
    words = ["encode", "--run", str(root / "run"), "--images", str(root / "data")]
    assert main([*words, "--out", str(tmp_path / "latents")]) == 0
    data = open_data(str(tmp_path / "latents"))
    assert data.manifest.image_shape == GRID
    mu = load_run(root / "run").encode(open_data(str(root / "data")).arrays("test").images)[0]
    np.testing.assert_allclose(
        data.rows("test").images, mu.reshape(-1, *GRID), rtol=1e-4, atol=1e-5
    )
    second = {**TRAIN, "latent_factor": 4, "image_loss_type": "gaussian", "max_steps": 2}
    second |= {"data": tmp_path / "latents", "runs_dir": tmp_path, "name": "second"}
    assert main(["train", *flags(second)]) == 0
    assert load_run(tmp_path / "second").latent_shape == (2, 4, 4)


def test_pictures_are_of_the_most_active_latents(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grids, "MOST_ROWS", 12)
    assert main(["sample", "--run", str(root / "run"), "--out", str(tmp_path)]) == 0
    assert "traversals.png: the 12 most active of 512 latents" in capsys.readouterr().out


def test_evaluate_keeps_the_largest_latents(root: Path, tmp_path: Path) -> None:
    """And whitens as many as there are images to do it with."""
    words = ["evaluate", "--runs", str(root / "run"), "--data", str(root / "data")]
    words += ["--out", str(tmp_path), "--methods", "pca", "vae", "vae_white", "--dims", "2"]
    assert main([*words, "--report", "False"]) == 0
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    kept = {row["index"]: row["value"] for row in rows if row["metric"] == "kl_by_latent"}
    mu, logvar = load_run(root / "run").encode(open_data(str(root / "data")).arrays("test").images)
    kl = 0.5 * (mu**2 + np.exp(logvar) - 1 - logvar).mean(0)
    assert len(kept) == 256
    assert sum(kept.values()) == pytest.approx(float(np.sort(kl)[256:].sum()), rel=1e-4)
    assert [kept[i] for i in kept] == pytest.approx([float(kl[i]) for i in kept], rel=1e-3)
    assert {row["dim"] for row in rows if row["method"] == "vae_white"} == {99}  # 100 images


def test_pca_of_thousands_of_components_is_not_made(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evaluation.comparison.MOST_COMPONENTS", 3)
    written(tmp_path / "data", drawn(train=120, shape=(1, 8, 8)))
    small = {**TRAIN, "latent_factor": 4, "latent_grid": 1, "max_steps": 1}
    where = {"data": tmp_path / "data", "runs_dir": tmp_path, "name": "run"}
    assert main(["train", *flags({**small, **where})]) == 0
    words = ["evaluate", "--runs", str(tmp_path / "run"), "--data", str(tmp_path / "data")]
    words += ["--out", str(tmp_path / "out"), "--methods", "pca", "vae", "--dims", "2"]
    assert main([*words, "--report", "False"]) == 0
    (left,) = json.loads((tmp_path / "out" / "results.json").read_text())["not_made"]
    assert left["embedding"] == "pca-4"
    assert "more than 3 components" in left["reason"]


def test_an_exported_grid_is_the_run(root: Path, tmp_path: Path) -> None:
    """The command itself compares the program with the run, on batches of other sizes."""
    words = ["export", "--run", str(root / "run"), "--out"]
    assert main([*words, str(tmp_path / "programs"), "--to", "torch.export"]) == 0
    assert main([*words, str(tmp_path / "out")]) == 0
    assert "512 latents (2x16x16)" in (tmp_path / "out" / "README.md").read_text()
    assert load_run(tmp_path / "out").latent_shape == GRID
