from pathlib import Path

import numpy as np
import pytest

from data_pipeline.sources import SourceConfig, SourceData, load_source

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (40, 7, 5), dtype=np.uint8)
LABELS = np.arange(40) % 4


def _load(path: Path) -> SourceData:
    return load_source(SourceConfig(dataset="npz", source=path))


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
    images, _ = _whole(_load(tmp_path / "x.npy"))
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
        ({"images": RNG.random((4, 2, 5, 7))}, "no axis of 1 or 3 channels"),
        ({"images": IMAGES - 3.0}, r"values lie in -3\.0"),
        ({"images": np.full((4, 5, 5), np.nan)}, "values lie in nan"),
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
