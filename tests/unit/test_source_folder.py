from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.batch import Arrays
from data_pipeline.sources import SourceConfig, SourceData, load_source


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, task: str, done: int, total: int | None) -> None:
        pass


def _save(path: Path, value: int, mode: str = "L", size: tuple[int, int] = (8, 6), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    color = {"L": value, "RGB": (value, 0, 0), "RGBA": (value, 0, 0, 0), "LA": (value, 255)}
    Image.new(mode, size, color.get(mode, value)).save(path, **options)
    return path


def _load(root: Path, progress: Lines | None = None, **settings) -> SourceData:
    return load_source(SourceConfig(dataset="folder", source=root, **settings), progress)


def _values(part: Arrays) -> list[int]:
    return part.images[: len(part.labels)][:, 0, 0, 0].tolist()


def test_class_folders_are_labels_and_a_part_is_held_out(tmp_path):
    for n in range(20):
        _save(tmp_path / ("cat" if n % 2 else "dog") / "deep" / f"{n:02}.png", n)
    data = _load(tmp_path)
    train, test = data.splits["train"], data.splits["test"]
    assert data.classes == ["cat", "dog"]
    assert data.name == tmp_path.name
    assert train.images.shape == (16, 1, 6, 8)
    assert sorted(_values(train) + _values(test)) == list(range(20))
    for part in (train, test):
        assert [1 - value % 2 for value in _values(part)] == part.labels.tolist()
    assert sorted([*train.index, *test.index]) == list(range(20))
    again = _load(tmp_path)
    assert again.provenance == data.provenance
    assert again.splits["test"].index.tolist() == test.index.tolist()


@pytest.mark.parametrize("test_name", ["test", "Testing", "val", "validation"])
def test_train_and_test_folders_are_the_splits(tmp_path, test_name):
    for n in range(3):
        _save(tmp_path / "train" / "a" / f"{n}.png", n)
        _save(tmp_path / test_name / "b" / f"{n}.png", 10 + n)
    data = _load(tmp_path)
    assert data.classes == ["a", "b"]
    assert _values(data.splits["train"]) == [0, 1, 2]
    assert _values(data.splits["test"]) == [10, 11, 12]
    assert data.splits["test"].labels.tolist() == [1, 1, 1]


def test_val_beside_test_joins_train_aloud(tmp_path):
    for value, part in enumerate(("train", "val", "test")):
        _save(tmp_path / part / "a" / "0.png", value)
    heard = Lines()
    data = _load(tmp_path, heard)
    assert _values(data.splits["train"]) == [0, 1]
    assert _values(data.splits["test"]) == [2]
    assert any("1 images of val join train" in line for line in heard.lines)


def test_a_class_may_be_called_train(tmp_path):
    for name in ("train", "plane", "boat"):
        for n in range(4):
            _save(tmp_path / name / f"{n}.png", n)
    assert _load(tmp_path).classes == ["boat", "plane", "train"]


def test_images_without_classes(tmp_path):
    for n in range(10):
        _save(tmp_path / f"{n}.png", n)
    data = _load(tmp_path, test_fraction=0.3)
    assert data.classes == []
    assert data.splits["train"].labels.tolist() == [-1] * 7
    assert len(data.splits["test"].labels) == 3


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tiff", "webp", "jpg", "ppm", "tga"])
def test_formats(tmp_path, suffix):
    for n in range(4):
        _save(tmp_path / f"{n}.{suffix}", 50 * n, "RGB" if suffix == "webp" else "L")
    images = _load(tmp_path, color="grey").splits["train"].images[:]
    assert images.shape == (3, 1, 6, 8)


def test_odd_files_are_reported_counted_and_not_fatal_unless_asked(tmp_path):
    for n in range(4):
        _save(tmp_path / "a" / f"{n}.png", n)
    whole = _save(tmp_path / "a" / "cut.png", 7, size=(64, 64)).read_bytes()
    (tmp_path / "a" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "empty.jpg").touch()
    (tmp_path / "a" / ".DS_Store").write_text("not seen at all")
    _save(tmp_path / "stray.png", 9)
    heard = Lines()
    data = _load(tmp_path, heard)
    assert sum(len(part.labels) for part in data.splits.values()) == 4
    assert data.provenance["skipped"] == 4
    said = "\n".join(heard.lines)
    for text in (
        "skipped a/cut.png: ",
        "skipped a/notes.txt: not an image",
        "skipped a/empty.jpg: empty",
        "skipped stray.png: lies beside the class folders",
        "4 files skipped",
    ):
        assert text in said
    with pytest.raises(ValueError, match=r"a/cut\.png: .* \(and 3 more\); remove it or pass"):
        _load(tmp_path, on_bad_image="fail")


def test_a_decompression_bomb_is_an_odd_file(tmp_path):
    for n in range(2):
        _save(tmp_path / f"{n}.png", n)
    _save(tmp_path / "big.png", 0, "1", (10_000, 9_000))
    _save(tmp_path / "huge.png", 0, "1", (20_000, 10_000))
    heard = Lines()
    assert _load(tmp_path, heard).provenance["skipped"] == 2
    assert "skipped big.png: 10000x9000 are more than 89,478,485 pixels" in heard.lines
    assert "skipped huge.png: more than 178,956,970 pixels" in heard.lines


def test_sizes_that_differ_need_image_size(tmp_path):
    _save(tmp_path / "0.png", 10, size=(8, 6))
    _save(tmp_path / "1.png", 20, size=(30, 40))
    with pytest.raises(ValueError, match=r"2 sizes; most are .* give --image-size"):
        _load(tmp_path)
    images = _load(tmp_path, image_size=5, test_fraction=0.5).splits["train"].images
    assert images[:].shape == (1, 1, 5, 5)


def test_image_size_keeps_the_aspect_and_crops_the_middle(tmp_path):
    image = np.zeros((4, 12), np.uint8)
    image[:, 4:8] = 200
    for n in range(2):
        Image.fromarray(image).save(tmp_path / f"{n}.png")
    assert (_load(tmp_path, image_size=4).splits["train"].images[:] == 200).all()


def test_color_is_kept_and_grey_can_be_asked_for(tmp_path):
    _save(tmp_path / "0.png", 100)
    _save(tmp_path / "1.png", 100, "RGB")
    data = _load(tmp_path, test_fraction=0.5)
    pixels = {tuple(part.images[:1][0, :, 0, 0].tolist()) for part in data.splits.values()}
    assert pixels == {(100, 100, 100), (100, 0, 0)}
    grey = _load(tmp_path, color="grey", test_fraction=0.5)
    assert grey.splits["train"].images.shape == (1, 1, 6, 8)


def test_16_bits_transparency_and_exif(tmp_path):
    wide = np.full((6, 8), 0xAB12, np.uint16)
    Image.fromarray(wide).save(tmp_path / "0.png")
    _save(tmp_path / "1.png", 40, "RGBA")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    _save(tmp_path / "2.jpg", 90, size=(6, 8), exif=exif)
    data = _load(tmp_path, color="grey", test_fraction=0.5, dtype="uint8")
    parts = [data.splits[name] for name in ("train", "test")]
    index = np.concatenate([part.index for part in parts])
    values = np.concatenate([part.images[:][:, 0, 0, 0] for part in parts])[np.argsort(index)]
    assert values[0] == round(0xAB12 / 0xFFFF * 255)
    assert values[1] == 255
    assert abs(int(values[2]) - 90) <= 2


def test_nothing_there(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b.txt").write_text("x")
    with pytest.raises(ValueError, match="no images in it"):
        _load(tmp_path)
    with pytest.raises(ValueError, match="no such folder"):
        _load(tmp_path / "nowhere")


def test_a_file_that_changes_after_it_was_checked_is_named(tmp_path):
    for n in range(4):
        _save(tmp_path / f"{n}.png", n)
    images = _load(tmp_path).splits["train"].images
    for n in range(4):
        (tmp_path / f"{n}.png").write_text("gone")
    with pytest.raises(ValueError, match=r"\.png: changed while it was read"):
        images[:]
