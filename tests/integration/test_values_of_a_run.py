"""A run keeps what its training data's numbers meant, and encodes other data by that."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import UserError
from data_pipeline.folder import open_data
from launch.cli import main
from tests.run_folders import write_run
from tests.training_runs import COMMON, flags, metrics
from vae_dist.run.load import load_run

RNG = np.random.default_rng(3)
WIDE = RNG.integers(0, 3000, (60, 8, 8), dtype=np.uint16)


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of 16-bit images, of which 4095 is white."""
    root = tmp_path_factory.mktemp("values")
    np.save(root / "wide.npy", WIDE)
    words = ["--dataset", "npz", "--source", str(root / "wide.npy"), "--out", str(root / "data")]
    assert main(["prepare", *words]) == 0
    return root / "data"


def test_16_bit_images_are_trained_validated_and_evaluated(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = flags({**COMMON, "epochs": 1, "batch_size": 16, "data": folder, "do_augs": True})
    assert main(["train", *words, "--runs-dir", str(tmp_path), "--name", "wide"]) == 0
    assert "values: uint16, 0 black, 4095 white" in capsys.readouterr().out
    record = metrics(tmp_path / "wide")[-1]
    assert 0 < record["psnr"] < 99
    run = load_run(tmp_path / "wide")
    assert (run.values.dtype, run.values.scale) == ("uint16", (0, 4095))
    mu, _ = run.encode(WIDE)
    again, _ = run.encode((WIDE / 4095).astype(np.float32))
    np.testing.assert_allclose(mu, again, atol=1e-5)
    with pytest.raises(
        UserError, match=r"uint8; give uint16, 0 black, 4095 white, or floats in 0\.\.1"
    ):
        run.encode(WIDE.astype(np.uint8))
    out = ["--out", str(tmp_path / "eval"), "--methods", "pca", "vae", "--backend", "cpu"]
    assert main(["evaluate", "--runs", str(tmp_path / "wide"), "--data", str(folder), *out]) == 0
    assert main(["sample", "--run", str(tmp_path / "wide"), "--out", str(tmp_path / "s")]) == 0
    with np.load(tmp_path / "eval" / "artifacts.npz") as held:
        shown = held["originals"]
    stored = open_data(folder).arrays("test").images
    levels = np.round(stored[: len(shown)] / np.float32(4095) * 255)
    assert sorted(map(bytes, shown)) == sorted(map(bytes, levels.astype(np.uint8)))


def test_raw_pictures_are_taken_by_the_scale_of_the_training(folder: Path, tmp_path: Path) -> None:
    """The brightest value of these pictures is 900, of which a new guess would make white."""
    run_path = write_run(tmp_path / "run", open_data(folder))
    dim = RNG.integers(0, 900, (5, 8, 8), dtype=np.uint16)
    (tmp_path / "pictures").mkdir()
    for n, image in enumerate(dim):
        Image.fromarray(image).save(tmp_path / "pictures" / f"{n}.png")
    np.save(tmp_path / "dim.npy", dim)
    wanted, _ = load_run(run_path).encode((dim / 4095).astype(np.float32))
    for n, images in enumerate(("pictures", "dim.npy")):
        out = tmp_path / f"{n}.npz"
        words = ["--run", str(run_path), "--images", str(tmp_path / images), "--out", str(out)]
        assert main(["encode", *words]) == 0
        np.testing.assert_allclose(read(out)["mu"], wanted, atol=1e-5)
    other = ["--scale=0,900", "--out", str(tmp_path / "other.npz")]
    assert main(["encode", *words[:4], *other]) == 0
    assert np.abs(read(tmp_path / "other.npz")["mu"] - wanted).max() > 1e-2


def test_a_run_of_levels_knows_the_scale_of_its_16_bit_source(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = str(folder.parent / "wide.npy")
    words = ["--dataset", "npz", "--source", source, "--dtype", "uint8"]
    assert main(["prepare", *words, "--out", str(tmp_path / "levels")]) == 0
    run = write_run(tmp_path / "run", open_data(tmp_path / "levels"))
    dim = RNG.integers(0, 900, (5, 8, 8), dtype=np.uint16)
    np.save(tmp_path / "dim.npy", dim)
    np.save(tmp_path / "bytes.npy", dim.astype(np.uint8))
    encode = ["encode", "--run", str(run), "--out", str(tmp_path / "z.npz"), "--images"]
    assert main([*encode, str(tmp_path / "dim.npy")]) == 0
    levels = np.round(dim / 4095 * 255).astype(np.uint8)
    np.testing.assert_allclose(
        read(tmp_path / "z.npz")["mu"], load_run(run).encode(levels)[0], atol=1e-5
    )
    assert main([*encode, str(tmp_path / "bytes.npy")]) == 2
    assert "training data were uint16; give --scale=LOW,HIGH" in capsys.readouterr().err


def test_a_data_folder_of_another_type_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = write_run(tmp_path / "run", open_data(folder))
    np.save(tmp_path / "x.npy", WIDE.astype(np.uint8))
    words = ["--dataset", "npz", "--source", str(tmp_path / "x.npy")]
    assert main(["prepare", *words, "--out", str(tmp_path / "bytes")]) == 0
    words = ["--run", str(run), "--images", str(tmp_path / "bytes")]
    assert main(["encode", *words, "--out", str(tmp_path / "z.npz")]) == 2
    assert "trained on uint16, 0 black, 4095 white" in capsys.readouterr().err
