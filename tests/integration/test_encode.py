"""``vae-dist encode`` and ``decode``: the run's own figures, whole, resumable, on any processes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.batch import Arrays
from data_pipeline.folder import DataFolder
from data_pipeline.order import World
from data_pipeline.progress import Silent
from launch.cli import main
from tests.data_folders import drawn, written
from tests.run_folders import write_run
from tests.training_runs import ROOT, torchrun
from vae_dist.encode.images import open_images
from vae_dist.encode.job import Share
from vae_dist.encode.tasks import encode_job
from vae_dist.run.load import load_run
from vae_dist.run.trained import Run

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """Three shards of train, and one each of val and test."""
    out = tmp_path_factory.mktemp("encode") / "data"
    return written(out, drawn(shape=SHAPE), samples_per_shard=30, block_size=8)


@pytest.fixture(scope="module")
def run(data: DataFolder) -> Run:
    return load_run(write_run(Path(data.path).parent / "run", data))


def encode(run: Run, images: object, out: Path, *words: str) -> int:
    path = run.path.parents[1]
    return main(["encode", "--run", str(path), "--images", str(images), "--out", str(out), *words])


def in_order(data: DataFolder, split: str) -> Arrays:
    """All images of a split as they were written."""
    blocks = [
        (shard, number)
        for shard in data.manifest.splits[split].shards
        for number in range(len(shard.offsets) - 1)
    ]
    return Arrays(*map(np.concatenate, zip(*data.read_blocks(blocks), strict=True)))


def read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as held:
        return {name: held[name] for name in held.files}


def test_a_data_folder_is_encoded_in_its_order(run: Run, data: DataFolder, tmp_path: Path) -> None:
    out = tmp_path / "z.npz"
    assert encode(run, data.path, out, "--reconstructions") == 0
    found, row = read(out), 0
    for split in ("train", "val", "test"):
        rows = in_order(data, split)
        part = slice(row, row + len(rows.labels))
        mu, logvar = run.encode(rows.images)
        np.testing.assert_allclose(found["mu"][part], mu, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["logvar"][part], logvar, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(found["labels"][part], rows.labels)
        np.testing.assert_array_equal(found["index"][part], rows.index)
        assert set(found["split"][part]) == {split}
        shown = (run.reconstruct(rows.images) * 255).round()
        assert np.abs(found["reconstructions"][part] - shown).max() <= 1
        row = part.stop
    assert row == len(found["mu"]) == 120
    assert list(found["classes"]) == data.manifest.classes
    assert not list(tmp_path.glob(".z*"))


def test_one_split(run: Run, data: DataFolder, tmp_path: Path) -> None:
    assert encode(run, data.path, tmp_path / "z.npz", "--split", "test") == 0
    np.testing.assert_array_equal(read(tmp_path / "z.npz")["index"], data.arrays("test").index)


def test_pictures_are_scaled_to_the_run_and_keep_their_names(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (5, 8, 8), dtype=np.uint8)
    for name, image in zip("ecadb", pixels, strict=True):
        Image.fromarray(image).save(folder / f"{name}.png")
    Image.fromarray(rng.integers(0, 256, (20, 31, 3), dtype=np.uint8)).save(folder / "f.png")
    assert encode(run, folder, tmp_path / "z.npz") == 0
    said = capsys.readouterr()
    assert (
        "pictures: read in grey, scaled and cropped to 8x8 where they differ" in said.out + said.err
    )
    assert "no image has a label" not in said.out + said.err  # nothing is trained here
    found = read(tmp_path / "z.npz")
    assert [Path(name).name for name in found["names"]] == [f"{name}.png" for name in "abcdef"]
    order = np.argsort(list("ecadb"))
    np.testing.assert_allclose(found["mu"][:5], run.encode(pixels[order])[0], rtol=1e-5, atol=1e-6)
    assert set(found["labels"]) == {-1}


@pytest.mark.parametrize("count", [1, 2, 23])
def test_arrays_are_encoded_in_their_order(count: int, run: Run, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (count, *SHAPE), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    assert encode(run, tmp_path / "images.npy", tmp_path / "z.npz") == 0
    found = read(tmp_path / "z.npz")
    np.testing.assert_allclose(found["mu"], run.encode(images)[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["index"], np.arange(count))


def test_parquet_holds_the_same(run: Run, data: DataFolder, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("z.npz", "z.parquet"):
        assert encode(run, data.path, tmp_path / name) == 0
    table, arrays = parquet.read_table(tmp_path / "z.parquet"), read(tmp_path / "z.npz")
    for name in ("mu", "logvar"):
        flat = table[name].combine_chunks().flatten().to_numpy()
        np.testing.assert_array_equal(flat.reshape(arrays[name].shape), arrays[name])
    for name in ("labels", "index", "split"):
        assert table[name].to_pylist() == arrays[name].tolist()


@pytest.mark.parametrize("processes", [1, 2, 3, 7])
def test_the_same_bytes_on_any_number_of_processes(
    processes: int, run: Run, data: DataFolder, tmp_path: Path
) -> None:
    assert encode(run, data.path, tmp_path / "one.npz") == 0
    rows = open_images(data.path, run, split="all", progress=Silent())
    job = encode_job(run, rows, tmp_path / "many.npz")
    for rank in reversed(range(processes)):
        assert job.finish(False, Silent()) > 0
        job.work(Share(World(rank, processes)), Silent())
    assert job.finish(False, Silent()) == 0
    assert (tmp_path / "many.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()


def test_tasks_of_an_array_under_torchrun(run: Run, data: DataFolder, tmp_path: Path) -> None:
    """Two tasks of two real processes; the second one finds all pieces and joins them."""
    assert encode(run, data.path, tmp_path / "one.npz") == 0
    for part in ("0/2", "1/2"):
        assert not (tmp_path / "many.npz").exists()
        words = ["--checkpoint", run.path.parents[1], "--images", data.path]
        words += ["--out", tmp_path / "many.npz", "--part", part]
        done = torchrun(2, ROOT / "launch" / "encode.py", *words)
        assert done.returncode == 0, done.stderr
        assert "on 2 process(es)" in done.stderr
    assert (tmp_path / "many.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()


def test_a_killed_encode_goes_on_where_it_stopped(
    run: Run, data: DataFolder, tmp_path: Path
) -> None:
    class Killed(BaseException):
        pass

    assert encode(run, data.path, tmp_path / "one.npz") == 0
    rows = open_images(data.path, run, split="all", progress=Silent())
    job, computed = encode_job(run, rows, tmp_path / "z.npz"), []
    keep = job.output.keep

    def keep_two(parts: Path, piece: object, columns: dict[str, np.ndarray]) -> None:
        if len(computed) == 2:
            raise Killed
        computed.append(piece)
        keep(parts, piece, columns)  # type: ignore[arg-type]

    job.output.keep = keep_two  # type: ignore[method-assign]
    with pytest.raises(Killed):
        job.work(Share(World()), Silent())
    assert not (tmp_path / "z.npz").exists()
    assert len(job.missing()) == len(rows.pieces()) - 2
    job.output.keep = keep  # type: ignore[method-assign]
    assert job.work(Share(World()), Silent()) == rows.count - 60
    assert job.finish(False, Silent()) == 0
    assert (tmp_path / "z.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()


def test_what_is_there_already_is_kept(
    run: Run, data: DataFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "z.npz"
    assert encode(run, data.path, out) == 0
    before = out.stat().st_mtime_ns
    assert encode(run, data.path, out) == 0
    assert "is there already" in capsys.readouterr().err
    assert out.stat().st_mtime_ns == before
    assert encode(run, data.path, out, "--split", "test") == 2
    assert "--overwrite True" in capsys.readouterr().err
    assert encode(run, data.path, out, "--split", "test", "--overwrite") == 0
    assert len(read(out)["mu"]) == 20
    (tmp_path / "mine.npz").write_text("my notes")
    assert encode(run, data.path, tmp_path / "mine.npz", "--overwrite") == 2
    assert (tmp_path / "mine.npz").read_text() == "my notes"


@pytest.mark.parametrize("name", ["z.npz", "z.parquet"])
def test_decode_is_the_inverse(name: str, run: Run, data: DataFolder, tmp_path: Path) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    assert encode(run, data.path, tmp_path / name) == 0
    assert encode(run, data.path, tmp_path / "both.npz", "--reconstructions") == 0
    words = ["decode", "--run", str(run.path.parents[1]), "--latents", str(tmp_path / name)]
    assert main([*words, "--out", str(tmp_path / "x.npz")]) == 0
    found, both = read(tmp_path / "x.npz"), read(tmp_path / "both.npz")
    np.testing.assert_array_equal(found["images"], both["reconstructions"])
    for column in ("labels", "index", "split"):
        np.testing.assert_array_equal(found[column], both[column])
    assert main([*words, "--out", str(tmp_path / "pictures")]) == 0
    first = both["index"][both["split"] == "test"].argmin()
    image = both["reconstructions"][both["split"] == "test"][first, 0]
    with Image.open(tmp_path / "pictures" / "test" / "000000000.png") as picture:
        np.testing.assert_array_equal(np.asarray(picture), image)
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 120


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--images", "nowhere"], "--images nowhere: no such file"),
        (["--split", "extra"], "--split extra"),
        (["--out", "z.txt"], "--out z.txt: give NAME.npz"),
        (["--part", "2/2"], "--part 2/2"),
        (["--use-labels", "True"], "--use-labels: this run is not conditional"),
        (["--device", "tpu"], "--device tpu"),
        (["--out", "/proc/z.npz"], "--out /proc/z.npz: cannot be written"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str],
    message: str,
    run: Run,
    data: DataFolder,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert encode(run, data.path, tmp_path / "z.npz", *words) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert complaint.splitlines()[-1].startswith("vae-dist: error:")


def test_what_a_file_without_latents_holds_is_named(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros(3), other=np.zeros(3))
    words = ["--latents", str(tmp_path / "x.npz"), "--out", str(tmp_path / "y.npz")]
    assert main(["decode", "--run", str(run.path.parents[1]), *words]) == 2
    assert "holds images, other; expected one of mu, z, latents" in capsys.readouterr().err


def test_a_folder_without_images_is_told_by_this_commands_flag(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("no image")
    assert encode(run, tmp_path / "notes", tmp_path / "z.npz") == 2
    assert f"--images {tmp_path / 'notes'}: no images in it" in capsys.readouterr().err


def test_images_of_another_shape_are_refused(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = written(tmp_path / "other", drawn(shape=(1, 5, 4)))
    assert encode(run, other.path, tmp_path / "z.npz") == 2
    assert "images are 1x5x4, the run was trained on 1x8x8" in capsys.readouterr().err


def test_weights_that_were_replaced_begin_a_new_file(
    run: Run, data: DataFolder, tmp_path: Path
) -> None:
    """Parts of one training are not joined with those of another that has its name and step."""
    other = load_run(write_run(tmp_path / run.name, data, seed=1))
    assert (other.name, other.step) == (run.name, run.step)
    images = open_images(data.path, run, split="test", progress=Silent())
    keys = [encode_job(each, images, tmp_path / "z.npz").key for each in (run, other)]
    assert keys[0] != keys[1]
