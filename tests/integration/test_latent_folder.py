"""Latents as a data folder: the run's own, whole, resumable, and what the next model trains on."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.folder import DataFolder, open_data
from data_pipeline.folder.verify import verify
from data_pipeline.order import World
from data_pipeline.progress import Silent
from launch.cli import main
from tests.data_folders import drawn, written
from tests.run_folders import write_run
from tests.training_runs import COMMON, flags, metrics
from vae_dist.encode.images import open_images
from vae_dist.encode.job import Share
from vae_dist.encode.tasks import encode_job
from vae_dist.run.load import load_run
from vae_dist.run.trained import Run


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """Three shards of train, and one each of val and test; the images have names."""
    out = tmp_path_factory.mktemp("latents") / "data"
    source = drawn(shape=(1, 8, 8))
    source.names = {  # type: ignore[attr-defined]
        split: [f"{split}/{n}.png" for n in part.index] for split, part in source.splits.items()
    }
    return written(out, source, samples_per_shard=30, block_size=8)


@pytest.fixture(scope="module")
def run(data: DataFolder) -> Run:
    return load_run(write_run(Path(data.path).parent / "run", data))


@pytest.fixture(scope="module")
def latents(data: DataFolder, run: Run) -> DataFolder:
    out = Path(data.path).parent / "latents"
    words = ["--run", str(run.path.parents[1]), "--images", data.path, "--out", str(out)]
    assert main(["encode", *words]) == 0
    return open_data(out)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_it_holds_mu_with_labels_positions_names_and_splits(
    data: DataFolder, run: Run, latents: DataFolder
) -> None:
    assert verify(latents.path) == []
    manifest = latents.manifest
    assert (manifest.dtype, manifest.scale, manifest.image_shape) == ("float32", None, (4, 1, 1))
    assert manifest.classes == data.manifest.classes
    for split in ("train", "val", "test"):
        images, found = data.arrays(split), latents.arrays(split)
        mu, _ = run.encode(images.images)
        np.testing.assert_allclose(found.images[:, :, 0, 0], mu, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found.labels, images.labels)
        np.testing.assert_array_equal(found.index, images.index)
        if split == "train":
            np.testing.assert_allclose(manifest.mean, mu.mean(0), atol=1e-6)
            np.testing.assert_allclose(manifest.std, mu.std(0), atol=1e-6)
    names = Path(latents.path) / "names.jsonl"
    assert names.read_bytes() == (Path(data.path) / "names.jsonl").read_bytes()


@pytest.mark.parametrize("processes", [2, 3])
def test_the_same_bytes_on_any_number_of_processes(
    processes: int, run: Run, data: DataFolder, latents: DataFolder, tmp_path: Path
) -> None:
    rows = open_images(data.path, run, split="all", progress=Silent())
    job = encode_job(run, rows, tmp_path / "many")
    for rank in reversed(range(processes)):
        assert job.finish(False, Silent()) > 0
        job.work(Share(World(rank, processes)), Silent())
    assert job.finish(False, Silent()) == 0
    assert files(tmp_path / "many") == files(Path(latents.path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many"]


def test_a_killed_encode_goes_on_where_it_stopped(
    run: Run, data: DataFolder, latents: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    rows = open_images(data.path, run, split="all", progress=Silent())
    job, kept = encode_job(run, rows, tmp_path / "z"), []
    keep = job.output.keep

    def keep_two(parts: Path, piece: object, columns: dict[str, np.ndarray]) -> None:
        if len(kept) == 2:
            raise Killed
        kept.append(piece)
        keep(parts, piece, columns)  # type: ignore[arg-type]

    monkeypatch.setattr(job.output, "keep", keep_two)
    with pytest.raises(Killed):
        job.work(Share(World()), Silent())
    again = encode_job(run, rows, tmp_path / "z")
    assert len(again.missing()) == len(rows.pieces()) - 2
    assert again.work(Share(World()), Silent()) == rows.count - sum(p.count for p in kept)
    assert again.finish(False, Silent()) == 0
    assert files(tmp_path / "z") == files(Path(latents.path))


def test_another_result_is_not_replaced_and_the_same_one_kept(
    run: Run, data: DataFolder, latents: DataFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--run", str(run.path.parents[1]), "--images", data.path, "--out", latents.path]
    before = files(Path(latents.path))
    assert main(["encode", *words]) == 0
    assert "is there already" in capsys.readouterr().err
    assert main(["encode", *words, "--split", "test"]) == 2
    assert "holds something else" in capsys.readouterr().err
    assert main(["encode", *words, "--reconstructions"]) == 2
    assert "a data folder, which holds latents alone" in capsys.readouterr().err
    assert files(Path(latents.path)) == before


def test_pictures_without_splits_become_train_with_their_names(run: Run, tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "pictures").mkdir()
    for n in range(5):
        Image.new("L", (8, 8), 40 * n).save(tmp_path / "pictures" / f"{n}.png")
    words = ["--images", str(tmp_path / "pictures"), "--out", str(tmp_path / "z")]
    assert main(["encode", "--run", str(run.path.parents[1]), *words]) == 0
    found = open_data(tmp_path / "z")
    assert {name: one.count for name, one in found.manifest.splits.items()} == {
        "train": 5,
        "val": 0,
        "test": 0,
    }
    lines = [json.loads(line) for line in (tmp_path / "z" / "names.jsonl").open()]
    assert [Path(line["name"]).name for line in lines] == [f"{n}.png" for n in range(5)]


def test_a_second_model_trains_on_latents_and_encodes_and_decodes_them(
    latents: DataFolder, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = flags({**COMMON, "data": latents.path, "runs_dir": tmp_path, "batch_size": 16})
    own = ["--image-loss-type", "gaussian", "--lr", "0.01", "--latent-size", "2"]
    for loader, epochs in (("memory", 12), ("stream", 2)):
        words = [*base, *own, "--name", loader, "--loader", loader, "--epochs", str(epochs)]
        assert main(["train", *words]) == 0
        said = capsys.readouterr().out
        assert "values: float32, no pixels: no SSIM, no PSNR and no pictures of them" in said
        lines = [line for line in metrics(tmp_path / loader) if line["split"] == "val"]
        assert not {"ssim", "psnr"} & lines[-1].keys()
        if loader == "memory":
            assert lines[-1]["loss"] < lines[0]["loss"]
    second = load_run(tmp_path / "memory")
    test = latents.arrays("test").images
    mu, _ = second.encode(test)
    error = np.square(second.decode(mu) - test).mean()
    assert error < test.var()  # the mean of the likelihood has no bounds, and is in their units
    out = tmp_path / "again"
    words = ["encode", "--run", str(tmp_path / "memory"), "--images", latents.path]
    assert main([*words, "--out", str(out)]) == 0
    np.testing.assert_allclose(open_data(out).arrays("test").images[:, :, 0, 0], mu, atol=1e-5)
    decode = ["decode", "--run", str(tmp_path / "memory"), "--latents", str(out), "--out"]
    assert main([*decode, str(tmp_path / "first.npz")]) == 0
    with np.load(tmp_path / "first.npz") as held:
        assert held["images"].dtype == np.float32
    assert main([*decode, str(tmp_path / "pictures")]) == 2
    first = ["decode", "--run", str(run.path.parents[1]), "--latents", latents.path]
    assert main([*first, "--out", str(tmp_path / "images.npz")]) == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image-loss-type", "bce"], "--image-loss-type bce: .*Fix: --image-loss-type gaussian"),
        (["--image-loss-type", "gaussian", "--do-augs"], "--do-augs: .* holds no pixels"),
        (["--image-loss-type", "gaussian", "--best-by", "ssim"], "--best-by ssim: .* no pixels"),
        (["--image-loss-type", "gaussian", "--prior", "vamp"], "--prior vamp: .* no pixels"),
        (["--image-loss-type", "gaussian", "--model-type", "fcn"], "choose fc, fc_conv or conv"),
    ],
)
def test_what_needs_pixels_is_refused(
    words: list[str],
    message: str,
    latents: DataFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {**COMMON, "data": latents.path, "runs_dir": tmp_path, "name": "x"}
    assert main(["train", *flags(settings), *words]) == 2
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("vae-dist: error")]
    assert message.split(": .*")[0] in line


def test_pixels_have_a_likelihood_of_pixels(
    data: DataFolder,
    run: Run,
    latents: DataFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = {**COMMON, "data": data.path, "runs_dir": tmp_path, "name": "x"}
    assert main(["train", *flags(settings), "--image-loss-type", "gaussian"]) == 2
    assert "Fix: --image-loss-type mse" in capsys.readouterr().err
    for command in (
        ["evaluate", "--runs", str(run.path.parents[1]), "--data", latents.path],
        ["inspect", latents.path, "--picture", str(tmp_path / "p.png")],
    ):
        words = ["--out", str(tmp_path / "out")] if command[0] == "evaluate" else []
        assert main([*command, *words]) == 2
        assert "no pixels" in capsys.readouterr().err
