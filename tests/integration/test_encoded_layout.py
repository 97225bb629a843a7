"""Pictures kept as they came: the same pixels as blocks of them, and crops by the counters."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from data_pipeline.batch import Batch
from data_pipeline.errors import UserError
from data_pipeline.folder import open_data
from data_pipeline.folder.tars import read_block
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.crop import BOX_DRAWS, Crop, crop_boxes
from data_pipeline.load.loader import choose, make_loader
from data_pipeline.order import World
from data_pipeline.philox import Draws, uniform
from data_pipeline.sources.images import Stored, decoded
from launch.cli import main
from tests.training_runs import flags

CROP = Crop(5, (0.2, 0.9), (0.5, 2.0))
SIZE = 12


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of two classes: every kind that is kept, and some that are not."""
    root = tmp_path_factory.mktemp("encoded")
    rng = np.random.default_rng(0)
    for number in range(60):
        height, width = rng.integers(10, 40, 2)
        pixels = rng.integers(0, 256, (height // 4 + 1, width // 4 + 1, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels).resize((int(width), int(height)))
        path = root / "pictures" / "ab"[number % 2] / f"{number:03d}"
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = number % 6
        if kind == 0:
            picture.save(path.with_suffix(".png"))
        elif kind == 1:
            picture.convert("L").save(path.with_suffix(".jpeg"))
        elif kind == 2:
            exif = Image.Exif()
            exif[0x0112] = 6  # turned by a quarter
            picture.save(path.with_suffix(".jpg"), exif=exif)
        elif kind == 3:
            picture.putalpha(picture.convert("L"))
            picture.save(path.with_suffix(".png"))
        elif kind == 4:
            picture.save(path.with_suffix(".bmp"))
        else:
            picture.convert("1").save(path.with_suffix(".png"))
    for layout in ("block", "encoded"):
        words = {"dataset": "folder", "source": root / "pictures", "image_size": SIZE}
        words |= {"layout": layout, "out": root / layout, "samples_per_shard": 20, "block_size": 6}
        assert main(["prepare", *flags(words)]) == 0
    return root


def names(folder: Path) -> dict[tuple[str, int], str]:
    lines = (folder / "names.jsonl").read_text().splitlines()
    return {(r["split"], r["index"]): r["name"] for r in map(json.loads, lines)}


def test_without_crops_the_pixels_are_those_of_a_folder_of_blocks(root: Path) -> None:
    one, other = open_data(str(root / "encoded")), open_data(str(root / "block"))
    assert one.manifest.mean == other.manifest.mean
    assert one.manifest.version == 3
    for split in ("train", "val", "test"):
        for ours, theirs in zip(one.rows(split), other.rows(split), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert main(["verify", str(root / "encoded")]) == 0
    assert main(["inspect", str(root / "encoded")]) == 0


def test_jpegs_and_pngs_are_kept_byte_by_byte_and_others_as_pngs(root: Path) -> None:
    named, seen = names(root / "encoded"), set()
    for path in sorted((root / "encoded").glob("*.tar")):
        split = "test" if path.name.startswith("test") else "train"
        with tarfile.open(path) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                if suffix == "cls":
                    continue
                file = tar.extractfile(member)
                assert file is not None
                content = file.read()
                source = root / "pictures" / named[split, int(key)]
                if source.suffix == ".bmp":
                    found, want = Image.open(io.BytesIO(content)), Image.open(source)
                    assert found.format == "PNG"
                    np.testing.assert_array_equal(np.asarray(found), np.asarray(want))
                else:
                    assert content == source.read_bytes()
                seen.add((source.suffix, suffix))
    assert seen == {(".png", "png"), (".jpg", "jpg"), (".jpeg", "jpg"), (".bmp", "png")}


Place = tuple[int, int]


def cropped(
    root: Path, world: World, *, workers: int = 0, start: int = 0
) -> dict[Place, tuple[int, torch.Tensor]]:
    """Step and position to index and image, of one epoch."""
    config = LoaderConfig(lanes=8, workers=workers, shuffle_window=2)
    data = open_data(str(root / "encoded"), config=config)
    loader = make_loader(data, "train", config, world, batch_size=11, seed=3, crop=CROP)
    assert (loader.mode, loader.reason[:6]) == ("stream", "stream")
    return {
        (batch.step, int(position)): (int(index), image.clone())
        for batch in loader.batches(2, start)
        for position, index, image in zip(batch.position, batch.index, batch.images, strict=True)
    }


def assert_same(found: dict[Place, tuple[int, torch.Tensor]], alone: dict[Place, object]) -> None:
    for place, (index, image) in found.items():
        assert alone[place][0] == index  # type: ignore[index]
        assert torch.equal(alone[place][1], image)  # type: ignore[index]


def test_crops_are_the_same_on_1_2_and_4_processes_and_in_mid_epoch(root: Path) -> None:
    alone = cropped(root, World())
    assert len(alone) == 38
    for size in (2, 4):
        together = {}
        for rank in range(size):
            together |= cropped(root, World(rank, size))
        assert together.keys() == alone.keys()
        assert_same(together, alone)
    late = cropped(root, World(), start=2)
    assert late.keys() == {place for place in alone if place[0] >= 2}
    assert_same(late, alone)
    assert_same(cropped(root, World(1, 2), workers=2), alone)


def test_a_crop_is_pillows_of_the_box_that_a_step_draws_for_its_place(root: Path) -> None:
    """So the device and the loader draw the same boxes; the picture is upright, on white."""
    named = names(root / "encoded")
    draws = Draws(CROP.seed, "crop", BOX_DRAWS, torch.device("cpu"), uniform)
    for (step, position), (index, image) in cropped(root, World()).items():
        place = torch.tensor([position])
        batch = Batch(place, place, place, place, size=11, epoch=2, step=step)
        with decoded(Stored(root / "pictures" / named["train", index])) as found:
            values = found.values
        height, width = values.shape[:2]
        box = crop_boxes(draws(batch), height, width, CROP.scale, CROP.ratio)[0].tolist()
        top, left, tall, wide = box
        picture = Image.fromarray(values).convert("RGB").crop((left, top, left + wide, top + tall))
        want = np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(image.numpy(), want.transpose(2, 0, 1))


def test_memory_is_refused_in_words_where_crops_are_asked_for(root: Path) -> None:
    data = open_data(str(root / "encoded"))
    with pytest.raises(UserError, match="--loader stream --data-device cpu"):
        choose(data, "train", LoaderConfig(loader="memory"), CROP)
    assert choose(data, "train", LoaderConfig())[0] == "memory"


def test_a_training_crops_once_and_its_run_encodes_the_folder(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = {"data": root / "encoded", "runs_dir": root, "name": "cropped", "model_type": "fc"}
    words |= {"latent_size": 2, "max_steps": 3, "batch_size": 11, "augment": "crop,flip"}
    words |= {"telemetry_interval": 0, "tensorboard": False, "image_loss_type": "mse"}
    assert main(["train", *flags(words)]) == 0
    assert "--augment crop cuts from the pictures as they are" in capsys.readouterr().out
    found = []
    for layout in ("block", "encoded"):
        out = root / f"{layout}.npz"
        run = ["encode", "--run", str(root / "cropped"), "--out", str(out)]
        assert main([*run, "--images", str(root / layout), "--split", "test"]) == 0
        found.append(np.load(out))
    for name in ("mu", "logvar", "labels", "index"):
        np.testing.assert_array_equal(found[0][name], found[1][name])


def tar_of(**members: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("_", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def jpeg(mode: str = "RGB", form: str = "JPEG", size: int = 9) -> bytes:
    stream = io.BytesIO()
    Image.new(mode, (size, size)).save(stream, form)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"1_jpg": jpeg(), "1_png": jpeg(form="PNG"), "1_cls": b"0"}, "2 pictures"),
        ({"1_cls": b"0"}, "0 pictures"),
        ({"1_jpg": jpeg()}, "lacks cls"),
        ({"1_jpg": jpeg()[:-40], "1_cls": b"0"}, "does not decode"),
        ({"1_jpg": jpeg(form="GIF"), "1_cls": b"0"}, "not an image"),
        ({"1_png": jpeg("I;16", "PNG"), "1_cls": b"0"}, "picture of uint16"),
        ({"1_jpg": b"", "1_cls": b"0"}, "empty"),
    ],
)
def test_a_hostile_shard_is_named(members: dict[str, bytes], word: str) -> None:
    with pytest.raises(UserError, match=rf"x\.tar: damaged shard .*{word}"):
        read_block(tar_of(**members), "encoded", 1, (3, 5, 5), "x.tar")


def test_sources_without_such_files_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "set.npz", images=np.zeros((20, 5, 5), np.uint8))
    (tmp_path / "deep").mkdir()
    for number in range(20):
        pixels = np.full((8, 8), number * 3000, np.uint16)
        Image.fromarray(pixels).save(tmp_path / "deep" / f"{number}.png")
    for dataset, source, word in (
        ("npz", tmp_path / "set.npz", "set has none; Fix: --layout block"),
        ("folder", tmp_path / "deep", "these are others; Fix: --layout block"),
    ):
        words = {"dataset": dataset, "source": source, "layout": "encoded", "out": tmp_path / "o"}
        assert main(["prepare", *flags(words)]) == 2
        assert word in capsys.readouterr().err
