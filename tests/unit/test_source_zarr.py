"""Zarr stores of both formats, written by zarr itself, read to the values of a formula."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.sources import SourceConfig, SourceData, load_source
from launch.cli import main
from tests.training_runs import flags

zarr = pytest.importorskip("zarr")
WIDE = (
    (np.arange(30 * 5 * 9 * 8, dtype=np.uint32) * 7 % 4096).astype(np.uint16).reshape(30, 5, 9, 8)
)
LABELS = np.arange(30) % 3


class Lines(list[str]):
    def say(self, text: str) -> None:
        self.append(text)

    def advance(self, task: str, done: int, total: int | None) -> None:
        pass


def load(source: Path, **settings: object) -> tuple[SourceData, str]:
    heard = Lines()
    config = SourceConfig(dataset="zarr", source=str(source), **settings)  # type: ignore[arg-type]
    return load_source(config, heard), "\n".join(heard)


def whole(data: SourceData) -> tuple[np.ndarray, np.ndarray]:
    parts = [data.splits[name] for name in ("train", "test")]
    order = np.argsort(np.concatenate([part.index for part in parts]))
    images = np.concatenate([part.images[:] for part in parts])
    return images[order], np.concatenate([part.labels for part in parts])[order]


def store(path: Path, version: int, chunks: tuple[int, ...] = (7, 2, 9, 8), **more: object) -> Path:
    """A group of images and labels."""
    group = zarr.open_group(str(path), mode="w", zarr_format=version)
    images = group.create_array("images", shape=WIDE.shape, chunks=chunks, dtype="uint16", **more)
    images[:] = WIDE
    labels = group.create_array("labels", shape=(30,), chunks=(8,), dtype="int64")
    labels[:] = LABELS
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_a_group_of_images_and_labels(tmp_path: Path, version: int) -> None:
    data, said = load(store(tmp_path / "set.zarr", version), scale="0,4095")
    images, labels = whole(data)
    np.testing.assert_array_equal(images, WIDE)
    np.testing.assert_array_equal(labels, LABELS)
    assert (data.name, data.values.dtype, data.values.scale) == ("set", "uint16", (0, 4095))
    assert "5 channels, (n, C, H, W)" in said


@pytest.mark.parametrize("version", [2, 3])
def test_an_array_alone_of_floats_in_big_endian(tmp_path: Path, version: int) -> None:
    grey = np.linspace(0, 1, 20 * 6 * 6).reshape(20, 6, 6).astype(">f4")
    path = tmp_path / "grey.zarr"
    zarr.save_array(str(path), grey, zarr_format=version)
    images, labels = whole(load(path, dtype="float32")[0])
    np.testing.assert_array_equal(images, grey.astype("f4")[:, None])
    assert (labels == -1).all()


def test_shards_and_parts_and_named_arrays(tmp_path: Path) -> None:
    path = tmp_path / "parts.zarr"
    root = zarr.open_group(str(path), mode="w", zarr_format=3)
    for part, count in (("train", 20), ("test", 10)):
        images = root.create_group(part).create_array(
            "images", shape=(count, 4, 4), chunks=(2, 4, 4), shards=(6, 4, 4), dtype="uint8"
        )
        images[:] = np.arange(count, dtype=np.uint8)[:, None, None] + len(part)
    data, _ = load(path)
    assert [len(part.labels) for part in data.splits.values()] == [20, 10]
    assert data.splits["train"].images[3, 0, 0, 0] == 8
    with pytest.raises(UserError, match="no array x; there are test/images, train/images"):
        load(path, image_field="x")
    named, _ = load(path, image_field="train/images")
    assert sum(len(part.labels) for part in named.splits.values()) == 20


def test_chunks_that_only_hold_the_fill_value_are_said(tmp_path: Path) -> None:
    """Writers leave such chunks out; of an array without any, nothing is known."""
    path = tmp_path / "set.zarr"
    array = zarr.open_array(
        str(path), mode="w", shape=(20, 6, 6), chunks=(5, 6, 6), dtype="uint8", zarr_format=3
    )
    with pytest.raises(UserError, match="4 of 4 chunks are not there"):
        load(path)
    array[:10] = 9
    data, said = load(path)
    assert "2 of 4 chunks are not stored: all their values are 0, the fill value" in said
    assert whole(data)[0].sum() == 9 * 360


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def damage(path: Path, kind: str) -> None:
    two, three = path / "images" / ".zarray", path / "images" / "zarr.json"
    if kind == "objects":
        change(two, dtype="|O", filters=[{"id": "pickle", "protocol": 5}])
    elif kind == "pickle":
        change(two, filters=[{"id": "pickle", "protocol": 5}])
    elif kind == "structure":
        change(two, dtype=[["a", "<i4"]])
    elif kind == "codec":
        change(three, codecs=[{"name": "numcodecs.pickle"}])
    elif kind == "inner codec":
        inner = {"codecs": [{"name": "vlen-bytes"}], "chunk_shape": [1], "index_codecs": []}
        change(three, codecs=[{"name": "sharding_indexed", "configuration": inner}])
    elif kind == "type":
        change(three, data_type={"name": "structured"})
    elif kind == "huge":
        change(three, shape=[1 << 40, 5, 9, 8])
    elif kind == "huge chunks":
        change(
            three,
            shape=[1 << 30, 5, 9, 8],
            chunk_grid={"name": "regular", "configuration": {"chunk_shape": [1 << 30, 5, 9, 8]}},
        )
    elif kind == "no JSON":
        three.write_text("{")
    elif kind == "shape":
        change(three, shape="many")
    elif kind == "chunk":
        (path / "images" / "c" / "0" / "0" / "0" / "0").write_bytes(b"no chunk")
    elif kind == "pipe":
        os.mkfifo(path / "images" / "c" / "9")


@pytest.mark.parametrize(
    ("version", "kind", "word"),
    [
        (2, "objects", "packed with 'pickle'"),
        (2, "pickle", "packed with 'pickle'"),
        (2, "structure", "plain numbers are read"),
        (3, "codec", "packed with 'numcodecs.pickle'"),
        (3, "inner codec", "packed with 'vlen-bytes'"),
        (3, "type", "plain numbers are read"),
        (3, "huge", "decompression bomb"),
        (3, "huge chunks", "must be unpacked at once"),
        (3, "no JSON", "not JSON"),
        (3, "shape", "damaged"),
        (3, "chunk", "damaged"),
        (3, "pipe", "a named pipe, no chunk"),
    ],
)
def test_a_hostile_store_is_one_line(tmp_path: Path, version: int, kind: str, word: str) -> None:
    path = store(tmp_path / "set.zarr", version)
    damage(path, kind)
    with pytest.raises(UserError, match=word):
        load(path, scale="0,4095")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.npz", "npz"), ("a.tar", "webdataset"), ("a.parquet", "parquet"), ("a.tiff", "tiff")],
)
def test_a_source_of_another_kind_names_its_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, kind: str
) -> None:
    (tmp_path / name).write_bytes(b"")
    assert main(["prepare", *flags({"source": tmp_path / name, "out": tmp_path / "o"})]) == 2
    assert f"Fix: --dataset {kind}" in capsys.readouterr().err


def test_a_folder_of_another_kind_names_its_flag(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    (tmp_path / "pictures" / "cat" / "1.JPG").write_bytes(b"")
    store(tmp_path / "z", 3)
    for source, kind in (("pictures", "folder"), ("z", "zarr")):
        assert main(["prepare", *flags({"source": tmp_path / source, "out": tmp_path / "o"})]) == 2
        assert f"Fix: --dataset {kind}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("shape", "line"),
    [
        ((10, 3, 9, 3), r"shape \(n, 3, 9, 3\) could be read in two ways; it is read as \(n, H, W, C\)"),
        ((10, 3, 3, 3), r"shape \(n, 3, 3, 3\) could be read in two ways; it is read as \(n, C, H, W\)"),
        ((28, 28, 3), r"shape \(n, 28, 3\) is read as \(n, H, W\): grey images 3 pixels wide"),
        ((10, 9, 8, 3), ""),
    ],
)  # fmt: skip
def test_axes_that_could_be_others_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], shape: tuple[int, ...], line: str
) -> None:
    values = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=values)
    words = {"dataset": "npz", "source": tmp_path / "set.npz", "out": tmp_path / "o", "folds": 2}
    assert main(["prepare", *flags(words)]) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    if line:
        import re

        assert re.search(line, said)
    else:
        assert "read as" not in said
