"""Folders as they come: nothing in them hangs, vanishes or changes its meaning in silence."""

import os
import socket
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import UserError
from data_pipeline.sources import SourceConfig, SourceData, load_source

NOBODY = 65534


class Lines(list[str]):
    def say(self, text: str) -> None:
        self.append(text)

    def advance(self, task: str, done: int, total: int | None) -> None:
        pass


def _pictures(folder: Path, count: int = 4, first: int = 100) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        Image.new("L", (6, 5), first + n).save(folder / f"{n}.png")


def _load(root: Path, **settings) -> tuple[SourceData, str]:
    heard = Lines()
    data = load_source(SourceConfig(dataset="folder", source=str(root), **settings), heard)
    return data, "\n".join(heard)


def _count(data: SourceData) -> int:
    return sum(len(part.labels) for part in data.splits.values())


def _splits(root: Path, *parts: str) -> None:
    for part in parts:
        for name in ("cat", "dog"):
            _pictures(root / part / name)


@pytest.mark.parametrize("other", ["annotations", "masks", "unlabelled"])
def test_another_folder_beside_train_and_test_leaves_them_splits(tmp_path, other):
    _splits(tmp_path, "train", "Test")
    _pictures(tmp_path / other)
    (tmp_path / "README").write_text("x")
    data, said = _load(tmp_path)
    assert data.classes == ["cat", "dog"]
    assert [len(data.splits[name].labels) for name in ("train", "test")] == [8, 8]
    assert f"skipped {other}: lies beside the split folders" in said
    assert "skipped README: lies beside the split folders" in said
    assert "Test, train are the splits" in said


def test_train_with_classes_beside_another_folder_is_asked_about(tmp_path):
    _splits(tmp_path, "train")
    _pictures(tmp_path / "extra")
    with pytest.raises(UserError, match="is train a class like extra, or"):
        _load(tmp_path)


def test_a_split_without_a_readable_image_is_an_error(tmp_path):
    _splits(tmp_path, "train")
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "cat" / "0.png").write_text("damaged")
    with pytest.raises(UserError, match="no image of test can be read"):
        _load(tmp_path)


def test_pipes_sockets_and_devices_are_named_and_not_opened(tmp_path):
    _pictures(tmp_path / "a")
    os.mkfifo(tmp_path / "a" / "pipe.png")
    os.symlink("/dev/zero", tmp_path / "a" / "device.png")
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.getcwd()
        os.chdir(tmp_path)  # a socket's path must be short
        listener.bind("a/s.png")
        os.chdir(here)
        data, said = _load(tmp_path)
    assert _count(data) == 4
    for line in ("pipe.png: a named pipe", "device.png: a device", "s.png: a socket"):
        assert f"skipped a/{line}" in said
    assert data.provenance["skipped_reasons"] == {"a named pipe": 1, "a device": 1, "a socket": 1}


def test_links_lead_out_of_the_folder_once_and_never_in_a_circle(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    _pictures(root / "a")
    _pictures(elsewhere / "deep", 3)
    os.symlink("../../elsewhere", root / "a" / "more")
    os.symlink("../../elsewhere/deep", root / "a" / "twice")
    os.symlink("..", root / "a" / "circle")
    os.symlink(tmp_path, root / "a" / "above")
    os.symlink("deep", elsewhere / "again")
    os.symlink(root / "a" / "0.png", elsewhere / "one.png")
    os.symlink("nowhere", root / "a" / "gone.png")
    data, said = _load(root)
    assert _count(data) == 4 + 3 + 1
    assert "skipped a/circle: a link to a folder of the same source" in said
    assert "skipped a/above: a link to a folder above it" in said
    assert "skipped a/gone.png: a broken link" in said
    assert "the same folder as a/twice" in said


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path):
    _pictures(tmp_path / "a")
    _pictures(tmp_path / "a" / "closed")
    tmp_path.chmod(0o755)
    for folder in list(tmp_path.parents)[:3]:
        folder.chmod(0o755)
    (tmp_path / "a" / "closed").chmod(0)
    (tmp_path / "a" / "0.png").chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        with pytest.raises(UserError, match=r"a/closed: cannot be listed \(Permission denied"):
            _load(tmp_path)
    finally:
        if root:
            os.seteuid(0)
    (tmp_path / "a" / "closed").chmod(0o755)
    if root:
        os.seteuid(NOBODY)
    try:
        data, said = _load(tmp_path)
    finally:
        if root:
            os.seteuid(0)
    assert _count(data) == 7
    assert "skipped a/0.png: Permission denied" in said


def test_names_of_any_bytes_are_read_and_shown_without_harm(tmp_path):
    _pictures(tmp_path / "a")
    os.rename(tmp_path / "a" / "0.png", os.fsencode(tmp_path / "a") + b"/caf\xe9.png")
    os.rename(tmp_path / "a", os.fsencode(tmp_path) + b"/caf\xe9")
    (tmp_path / "b\n\x1b[31m").mkdir()
    _pictures(tmp_path / "b\n\x1b[31m")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9/\xff.txt")).write_text("x")
    data, said = _load(tmp_path)
    assert data.classes == ["b\\n\\x1b[31m", "caf\\xe9"]
    assert _count(data) == 8
    assert "skipped caf\\xe9/\\xff.txt: not an image" in said


def test_one_name_in_two_compositions_is_one_class_and_cases_are_two(tmp_path):
    for form in ("NFC", "NFD"):
        _pictures(tmp_path / unicodedata.normalize(form, "café"))
    _pictures(tmp_path / "Cat")
    _pictures(tmp_path / "cat")
    data, said = _load(tmp_path)
    assert data.classes == ["Cat", "café", "cat"]
    assert _count(data) == 16
    assert "warning: classes 'Cat', 'cat' are kept as different classes" in said


def test_empty_classes_and_classes_without_training_images_are_named(tmp_path):
    _splits(tmp_path, "train", "test")
    _pictures(tmp_path / "test" / "emu")
    (tmp_path / "train" / "bee").mkdir()
    (tmp_path / "train" / "gnu").mkdir()
    (tmp_path / "train" / "gnu" / "0.png").touch()
    data, said = _load(tmp_path)
    assert data.classes == ["cat", "dog", "emu"]
    assert "skipped train/bee: an empty class folder" in said
    assert "gnu: no image of this class can be read" in said
    assert "only the test set has class emu" in said


def test_missing_labels_are_said(tmp_path):
    _pictures(tmp_path)
    assert "no image has a label" in _load(tmp_path)[1]


@pytest.mark.parametrize(("count", "fraction"), [(1, 0.2), (10, 0.95)])
def test_too_few_images_for_both_splits_are_refused(tmp_path, count, fraction):
    _pictures(tmp_path / "a", count)
    with pytest.raises(UserError, match=r"both need at least 1"):
        _load(tmp_path, test_fraction=fraction)


def _values(data: SourceData) -> np.ndarray:
    parts = [data.splits[name] for name in ("train", "test")]
    order = np.argsort(np.concatenate([part.index for part in parts]))
    return np.concatenate([part.images[:] for part in parts])[order]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_12_bits_in_16_keep_their_levels(tmp_path, suffix):
    stored = np.linspace(0, 4095, 256).reshape(16, 16).astype(np.uint16)
    for n in range(4):
        Image.fromarray(stored).save(tmp_path / f"{n}.{suffix}")
    data, said = _load(tmp_path, dtype="uint8")
    assert np.array_equal(_values(data)[2, 0], np.round(stored / 4095 * 255))
    assert "4 pictures of uint16: uint16 values of 0 to 4095: 0 becomes black and 4095" in said
    data, said = _load(tmp_path, scale="0,8190", dtype="uint8")
    assert np.array_equal(_values(data)[2, 0], np.round(stored / 8190 * 255))
    assert data.provenance["pixels"]["uint16"][:2] == [0, 8190]


def test_float_tiffs_and_masks_of_0_and_1(tmp_path):
    levels = np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)
    for n in range(2):
        Image.fromarray(levels).save(tmp_path / f"{n}.tiff")
        Image.fromarray((levels > 0.5).astype(np.uint8)).save(tmp_path / f"mask{n}.png")
    data, said = _load(tmp_path, dtype="uint8")
    values = _values(data)[:, 0]
    assert np.array_equal(values[0], np.round(levels * 255))
    assert np.array_equal(values[3], (levels > 0.5) * 255)
    assert "2 pictures of float32: float32 values of 0 to 1" in said
    assert "2 pictures of uint8: uint8 values of 0 to 1: 0 becomes black and 1 white (only" in said


def test_what_is_done_to_pictures_is_said_once_with_the_count(tmp_path):
    grey = Image.fromarray(np.tile(np.arange(0, 240, 30, dtype=np.uint8), (8, 1)))
    exif = Image.Exif()
    exif[0x0112] = 6
    for n in range(2):
        grey.convert("CMYK").save(tmp_path / f"cmyk{n}.jpg")
        grey.convert("RGB").quantize(8).save(tmp_path / f"palette{n}.png")
    grey.save(tmp_path / "exif.jpg", exif=exif)
    grey.convert("1").save(tmp_path / "bits.png")
    grey.convert("LA").save(tmp_path / "alpha.png")
    Image.new("LA", (8, 8), (9, 0)).save(tmp_path / "clear.png")
    grey.save(tmp_path / "film.gif", save_all=True, append_images=[grey.rotate(90)])
    data, said = _load(tmp_path)
    for line in (
        "2 pictures of CMYK",
        "3 pictures with a palette",
        "1 pictures with an EXIF orientation",
        "1 pictures of one bit",
        "2 pictures with transparency: put on white",
        "1 pictures with several frames or pages: the first is read",
    ):
        assert line in said
    names = sorted(path.name for path in tmp_path.iterdir())
    assert (_values(data)[names.index("clear.png")] == 255).all()
    assert np.array_equal(_values(data)[names.index("film.gif"), 0], np.asarray(grey))
    assert np.array_equal(_values(data)[names.index("alpha.png"), 0], np.asarray(grey))


def test_16_bits_a_colour_are_said(tmp_path):
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content))
            + kind
            + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )

    rows = b"".join(b"\0" + struct.pack(">12H", *range(0, 48000, 4000)) for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    png += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    for n in range(2):
        (tmp_path / f"{n}.png").write_bytes(png)
    assert "2 pictures of 16 bits a colour: the upper 8 are read" in _load(tmp_path)[1]


def test_a_source_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="no such folder"):
        _load(tmp_path / "file")
    assert SourceConfig(dataset="folder", source=str(tmp_path)).source == str(tmp_path)


def test_flags_that_mean_nothing_to_a_source_are_named():
    heard = Lines()
    load_source(SourceConfig(dataset="digits", image_size=32, scale="0,16"), heard)
    assert "warning: --image-size has no effect on --dataset digits" in heard
    assert "warning: --scale has no effect on --dataset digits" in heard
