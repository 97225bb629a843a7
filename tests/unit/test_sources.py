import gzip
import hashlib
import io
import struct
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.folder import open_data
from data_pipeline.sources import SourceConfig, load_source
from data_pipeline.sources.base import hold_out
from data_pipeline.sources.idx import read_idx


def test_idx_is_read_as_its_header_says():
    content = struct.pack(">BBBBII", 0, 0, 8, 2, 2, 3) + bytes(range(6))
    for stored in (content, gzip.compress(content)):
        array, found = read_idx(io.BytesIO(stored), len(stored), "f")
        assert found == hashlib.sha256(content).hexdigest()
        assert array.tolist() == [[0, 1, 2], [3, 4, 5]]


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "not an IDX file"),
        (b"\x89PNG....", "not an IDX file"),
        (struct.pack(">BBBBI", 0, 0, 8, 2, 2), "cut in the IDX header"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 9) + b"123", "holds 3 bytes, its header says 9"),
    ],
)
def test_what_is_not_idx_is_named(content, fault):
    with pytest.raises(ValueError, match=f"raw/f: {fault}"):
        read_idx(io.BytesIO(content), len(content), "raw/f")


@pytest.mark.parametrize("damage", [lambda z: z[:-9], lambda z: z[:60] + b"\0\0\0" + z[63:]])
def test_damaged_gzip_is_named(damage):
    content = struct.pack(">BBBBI", 0, 0, 8, 1, 1000) + np.random.default_rng(0).bytes(1000)
    packed = damage(gzip.compress(content))
    with pytest.raises(ValueError, match=r"raw/f\.gz: damaged gzip file"):
        read_idx(io.BytesIO(packed), len(packed), "raw/f.gz")


def test_digits_are_the_same_every_time_and_split_by_class():
    first, second = (load_source(SourceConfig(dataset="digits")) for _ in range(2))
    train, test = first.splits["train"], first.splits["test"]
    assert train.images.shape == (1437, 1, 28, 28)
    assert test.images.shape == (360, 1, 28, 28)
    assert train.images.dtype == np.uint8
    assert train.images.max() == 255
    assert sorted([*train.index, *test.index]) == list(range(1797))
    assert np.ptp(np.bincount(test.labels)) <= 3
    for split in ("train", "test"):
        for one, other in zip(first.splits[split], second.splits[split], strict=True):
            assert np.array_equal(one, other)


@pytest.mark.parametrize("labels", [[-1] * 10, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9], [0] * 9 + [1]])
def test_hold_out_copes_with_few_or_no_labels(labels):
    train, test = hold_out(np.array(labels), 0.2)
    assert sorted([*train, *test]) == list(range(10))
    assert len(test) == 2


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"dataset": "cifar"}, "--dataset cifar: did you mean cifar10?"),
        ({"dataset": "folder"}, "--dataset folder needs --source"),
        ({"test_fraction": 1.0}, "--test-fraction"),
        ({"image_size": 0}, "--image-size"),
        ({"color": "cmyk"}, "--color"),
        ({"on_bad_image": "ignore"}, "--on-bad-image"),
    ],
)
def test_wrong_settings_name_the_flag(settings, complaint):
    with pytest.raises(ValueError, match=complaint):
        SourceConfig(**settings)


def test_a_missing_set_says_all_three_ways(tmp_path):
    config = SourceConfig(dataset="kmnist", download=False, download_dir=tmp_path)
    with pytest.raises(ValueError, match=r"no --source DIR.*no copy lies in.*downloading is off"):
        load_source(config)


def test_an_empty_source_folder_says_what_it_lacks(tmp_path: Path):
    with pytest.raises(ValueError, match=r"no train-images-idx3-ubyte, .*need"):
        load_source(SourceConfig(dataset="mnist", source=tmp_path))
    with pytest.raises(ValueError, match="no such folder"):
        load_source(SourceConfig(dataset="mnist", source=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        ("data/kmnist", "vae-dist prepare --dataset kmnist --out data/kmnist"),
        (
            "data/mnist_binarised",
            "vae-dist prepare --dataset mnist --binarise True --out data/mnist_binarised",
        ),
        ("cifar10", "vae-dist prepare --dataset cifar10 --source FILES --out cifar10"),
        ("my faces", "vae-dist prepare --dataset NAME --out 'my faces'"),
    ],
)
def test_a_missing_data_folder_is_named_with_the_command_that_writes_it(folder, command):
    with pytest.raises(UserError) as caught:
        open_data(folder)
    assert str(caught.value).endswith(f"; write it with {command}")
