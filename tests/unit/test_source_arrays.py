import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.sources import SourceConfig, SourceData, load_source

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 7, 5), dtype=np.uint8)
LABELS = np.arange(40) % 4


def _load(path: Path, **settings: str) -> SourceData:
    return load_source(SourceConfig(dataset="npz", source=str(path), **settings))


def _whole(data: SourceData) -> tuple[np.ndarray, np.ndarray]:
    """All images and labels, put back in their order in the file."""
    parts = [data.splits[name] for name in ("train", "test")]
    order = np.argsort(np.concatenate([part.index for part in parts]))
    images = np.concatenate([part.images for part in parts])[order]
    return images, np.concatenate([part.labels for part in parts])[order]


def test_one_array_of_images_and_one_of_labels(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS)
    data = _load(tmp_path / "set.npz")
    images, labels = _whole(data)
    assert np.array_equal(images[:, 0], IMAGES)
    assert np.array_equal(labels, LABELS)
    assert data.classes == ["0", "1", "2", "3"]
    assert data.name == "set"
    assert len(data.splits["test"].labels) == 8


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("train-images", "train-targets", "val-images", "val-targets"),
    ],
)
def test_train_and_test_arrays_are_the_splits(tmp_path, names):
    tables = (IMAGES[:30], LABELS[:30, None], IMAGES[30:], LABELS[30:, None])
    np.savez_compressed(tmp_path / "set.npz", **dict(zip(names, tables, strict=True)))
    data = _load(tmp_path / "set.npz")
    assert np.array_equal(data.splits["train"].images[:, 0], IMAGES[:30])
    assert np.array_equal(data.splits["test"].labels, LABELS[30:])
    assert data.splits["test"].index.tolist() == list(range(10))


def test_npy_files_alone_with_labels_beside_and_in_a_folder(tmp_path):
    np.save(tmp_path / "alone.npy", IMAGES)
    data = _load(tmp_path / "alone.npy")
    assert data.classes == []
    assert set(_whole(data)[1]) == {-1}
    folder = tmp_path / "folder"
    folder.mkdir()
    np.save(folder / "images.npy", IMAGES)
    np.save(folder / "labels.npy", LABELS)
    for path in (folder, folder / "images.npy"):
        assert np.array_equal(_whole(_load(path))[1], LABELS)


@pytest.mark.parametrize(
    ("stored", "shape"),
    [
        (IMAGES[:, None], (1, 7, 5)),
        (IMAGES[..., None], (1, 7, 5)),
        (np.repeat(IMAGES[:, None], 3, 1), (3, 7, 5)),
        (np.repeat(IMAGES[..., None], 3, 3), (3, 7, 5)),
        (IMAGES.astype(np.int64), (1, 7, 5)),
        (IMAGES.astype(np.float32), (1, 7, 5)),
        (IMAGES / 255, (1, 7, 5)),
    ],
)
def test_layouts_and_number_types(tmp_path, stored, shape):
    np.save(tmp_path / "x.npy", stored)
    images, _ = _whole(_load(tmp_path / "x.npy", dtype="uint8"))
    assert images.dtype == np.uint8
    assert images.shape[1:] == shape
    assert np.array_equal(images[:, 0], IMAGES)


def test_booleans_become_black_and_white(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES > 100)
    assert np.array_equal(_whole(_load(tmp_path / "x.npy"))[0][:, 0], (IMAGES > 100) * 255)


def test_classes_have_names(tmp_path):
    words = np.array(["cat", "dog", "ape", "bee"])
    np.savez(tmp_path / "words.npz", images=IMAGES, labels=words[LABELS])
    data = _load(tmp_path / "words.npz")
    assert data.classes == ["ape", "bee", "cat", "dog"]
    assert [data.classes[label] for label in _whole(data)[1]] == words[LABELS].tolist()
    np.savez(tmp_path / "named.npz", images=IMAGES, labels=LABELS, classes=words)
    assert _load(tmp_path / "named.npz").classes == words.tolist()


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        ({"images": np.array([{}, {}], dtype=object)}, "holds Python objects"),
        ({"pictures": IMAGES}, "arrays are named pictures; expected images and labels"),
        ({"images": IMAGES[0]}, r"shape \(7, 5\)"),
        ({"images": RNG.random((4, 6, 5, 7))}, "which axis is the channels"),
        ({"images": IMAGES - 3.0}, "values lie in -3 to 252"),
        ({"images": np.full((4, 5, 5), np.nan)}, "100 of 100 values are NaN"),
        ({"images": IMAGES, "labels": LABELS[:9]}, r"labels of all: shape \(9,\)"),
        ({"images": IMAGES, "labels": LABELS + 0.5}, "whole numbers or strings expected"),
        ({"images": IMAGES, "labels": LABELS - 9}, "-9 is not a class"),
        ({"images": IMAGES, "labels": LABELS, "classes": np.array(["a"])}, "1 classes are named"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, tables, fault):
    np.savez(tmp_path / "set.npz", **tables)
    with pytest.raises(ValueError, match=fault):
        _load(tmp_path / "set.npz")


def test_damaged_and_missing_files_are_named(tmp_path):
    np.savez_compressed(tmp_path / "set.npz", images=IMAGES)
    whole = (tmp_path / "set.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:-200])
    (tmp_path / "flip.npz").write_bytes(whole[:600] + b"\0" * 9 + whole[609:])
    (tmp_path / "text.npz").write_text("hello")
    for name in ("cut", "flip", "text"):
        with pytest.raises(ValueError, match=rf"{name}\.npz: (damaged|holds Python)"):
            _load(tmp_path / f"{name}.npz")
    with pytest.raises(ValueError, match=r"no \.npz or \.npy file"):
        _load(tmp_path / "nowhere.npz")


def test_arrays_larger_than_memory_are_read_by_rows_to_the_same_images(tmp_path, monkeypatch):
    tables = {"images": IMAGES, "labels": LABELS, "val_images": IMAGES[:9], "unknown": LABELS}
    np.savez(tmp_path / "plain.npz", **tables)
    np.savez_compressed(tmp_path / "packed.npz", **tables)
    np.savez(tmp_path / "fortran.npz", images=np.asfortranarray(IMAGES), labels=LABELS)
    wide = IMAGES.astype(">u2") * 256
    np.savez(tmp_path / "wide.npz", x_train=wide[:30], x_val=wide[30:35], x_test=wide[35:])
    for name in ("plain", "packed", "fortran", "wide"):
        whole = _load(tmp_path / f"{name}.npz", dtype="uint8")
        with monkeypatch.context() as patch:
            patch.setattr("data_pipeline.sources.arrays.SMALL", 0)
            patch.setattr("data_pipeline.sources.array_images._CHUNK", 100)
            lazy = _load(tmp_path / f"{name}.npz", dtype="uint8")
        for split in ("train", "test"):
            assert type(lazy.splits[split].images) is not np.ndarray
            assert np.array_equal(lazy.splits[split].images[:], whole.splits[split].images)
            assert np.array_equal(lazy.splits[split].labels, whole.splits[split].labels)
    assert np.array_equal(
        whole.splits["train"].images[:, 0], np.round(wide[:35] / 65535 * 255).astype(np.uint8)
    )


def test_one_scale_serves_all_parts_of_a_type(tmp_path):
    train, test = IMAGES.astype(np.uint16) * 16, IMAGES.astype(np.uint16) // 8
    np.savez(tmp_path / "set.npz", x_train=train, x_test=test)
    test_images = _load(tmp_path / "set.npz", dtype="uint8").splits["test"].images[:, 0]
    assert np.array_equal(test_images, np.round(test / 4095 * 255).astype(np.uint8))


def test_an_asked_for_scale_is_taken(tmp_path):
    np.save(tmp_path / "x.npy", IMAGES - 100.0)
    config = SourceConfig(
        dataset="npz", source=str(tmp_path / "x.npy"), scale="-100,155", dtype="uint8"
    )
    assert np.array_equal(_whole(load_source(config))[0][:, 0], IMAGES)


def test_numbers_that_no_image_has_are_no_classes(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=LABELS * 1000 + 1)
    data = _load(tmp_path / "set.npz")
    assert data.classes == ["1", "1001", "2001", "3001"]
    assert np.array_equal(_whole(data)[1], LABELS)
    labels = np.where(LABELS == 2, -1, LABELS)
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=labels)
    data = _load(tmp_path / "set.npz")
    assert data.classes == ["0", "1", "3"]
    assert [data.classes[label] for label in _whole(data)[1] if label >= 0] == [
        str(label) for label in labels if label >= 0
    ]


def test_names_of_classes_may_be_any_bytes_and_empty_ones_are_missing(tmp_path):
    words = np.array([b"caf\xe9", b"", b"dog", b"a\n"])
    np.savez(tmp_path / "set.npz", images=IMAGES, labels=words[LABELS])
    data = _load(tmp_path / "set.npz")
    assert data.classes == ["a\\n", "caf\\xe9", "dog"]
    assert np.array_equal(_whole(data)[1] == -1, LABELS == 1)


def _header(shape: object, dtype: str = "|u1", fortran: bool = False) -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        _header((1_000_000_000, 64, 64)) + bytes(99),
        _header((4, 5, 5)) + bytes(99),
        _header((4, 5, 5)) + bytes(101),
        _header((-4, -5, 5)) + bytes(100),
        _header((10**30, 0, 0)),
        _header((10**12,), "<U0"),
        _header((4,), "|O") + bytes(32),
        _header((4,), "<i4,<i4") + bytes(32),
        _header((4, 5, 5), "[('a', '|u1')]") + bytes(100),
        _header(()) + bytes(1),
        _header("(4, 5, __import__('os'))") + bytes(100),
        _header("(" * 5000) + bytes(100),
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(100),
        b"\x93NUMPY\x09\x00" + bytes(100),
        b"\x93NUMPY",
        b"",
        b"\x80\x04K\x01.",
    ],
)
def test_headers_that_lie_are_refused_before_memory_is_taken(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"x\.npy: ") as caught:
        _load(tmp_path / "x.npy")
    assert "\n" not in str(caught.value)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
            archive.writestr("images.npy", content)
        with pytest.raises(UserError, match=r"x\.npz: images: "):
            _load(tmp_path / "x.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_packed_otherwise_are_refused(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
        archive.writestr("images.npy", _header((4, 5, 5)) + bytes(100))
    with pytest.raises(UserError, match="packed by a method that numpy does not write"):
        _load(tmp_path / "x.npz")


def test_a_pipe_is_no_array(tmp_path):
    os.mkfifo(tmp_path / "x.npy")
    for path in (tmp_path / "x.npy", tmp_path):
        with pytest.raises(UserError, match=r"no \.npy file in it|no \.npz or \.npy file"):
            _load(path)


def test_a_file_that_shrinks_while_it_is_read_is_named(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", IMAGES)
    monkeypatch.setattr("data_pipeline.sources.arrays.SMALL", 0)
    images = _load(tmp_path / "x.npy").splits["train"].images
    os.truncate(tmp_path / "x.npy", 500)
    with pytest.raises(UserError, match=r"x\.npy: became shorter while it was read"):
        images[:]


@pytest.mark.parametrize("kind", [np.uint8, ">u2"])
def test_rows_in_any_order_are_read_by_one_opening_a_part(tmp_path, monkeypatch, kind):
    from data_pipeline.sources import numpy_files
    from data_pipeline.sources.array_images import ArrayImages
    from data_pipeline.sources.tally import Scale
    from data_pipeline.values import Values

    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 255, (n, 4, 5, 3)).astype(kind) for n in (30, 20)]
    stored = []
    for n, part in enumerate(parts):
        np.save(tmp_path / f"{n}.npy", part)
        stored.append((numpy_files.open_npy(tmp_path / f"{n}.npy"), Scale(0, 255)))
    opened = []

    def counted(path, mode):
        opened.append(path)
        return open(path, mode)

    monkeypatch.setattr(numpy_files, "open", counted, raising=False)
    rows = rng.permutation(50)
    images = ArrayImages(stored, Values(), rows)
    whole = np.concatenate(parts).transpose(0, 3, 1, 2).astype(np.uint8)
    which = rng.permutation(50)[:40]
    assert np.array_equal(images[which], whole[rows[which]])
    assert sorted(opened) == [tmp_path / "0.npy", tmp_path / "1.npy"]
    assert np.array_equal(images[5:17], whole[rows[5:17]])
    assert images[:0].shape == (0, 3, 4, 5)
    (tmp_path / "1.npy").write_bytes((tmp_path / "1.npy").read_bytes()[:-1])
    with pytest.raises(UserError, match="became shorter while it was read"):
        images[:]


@pytest.mark.parametrize(
    ("shape", "image_shape"),
    [
        ((3, 9, 3), (3, 3, 9)),
        ((3, 3, 3), (3, 3, 3)),
        ((3, 2, 1), (3, 2, 1)),
        ((3, 9, 9), (3, 9, 9)),
        ((9, 9, 3), (3, 9, 9)),
        ((9, 9, 6), (6, 9, 9)),
    ],
)
def test_the_axis_of_the_channels(shape, image_shape, tmp_path):
    """That of 1 or 3; the last one where both are, unless the images would be 3 high or less."""
    images = RNG.integers(0, 256, (40, *shape), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=LABELS)
    found = _whole(_load(tmp_path / "set.npz"))[0]
    last = image_shape != shape
    assert np.array_equal(found, images.transpose(0, 3, 1, 2) if last else images)
    assert found.shape[1:] == image_shape
