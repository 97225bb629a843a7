"""A data folder: written, read back by us and by webdataset, verified."""

import hashlib
import json

import numpy as np
import pytest
import webdataset
from sklearn.model_selection import StratifiedKFold

from data_pipeline.folder import open_data
from data_pipeline.folder.verify import verify
from tests.data_folders import digits, drawn, written


def sums(folder):
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}


@pytest.mark.parametrize("layout", ["block", "sample"])
@pytest.mark.parametrize("shape", [(1, 5, 4), (3, 6, 5)])
def test_arrays_are_the_raw_images(tmp_path, layout, shape):
    source = drawn(shape=shape)
    data = written(tmp_path / "d", source, layout=layout, samples_per_shard=30, block_size=8)
    train, val, test = (data.arrays(split) for split in ("train", "val", "test"))
    assert len(train.labels) == 80
    assert len(val.labels) == len(test.labels) == 20
    for arrays, raw in [(train, "train"), (val, "train"), (test, "test")]:
        assert (np.diff(arrays.index) > 0).all()
        for part, whole in zip(arrays, source.splits[raw], strict=True):
            assert part.dtype == whole.dtype
            assert np.array_equal(part, whole[arrays.index])
    assert sorted([*train.index, *val.index]) == list(range(100))


@pytest.mark.parametrize("layout", ["block", "sample"])
def test_webdataset_alone_reads_both_layouts(tmp_path, layout):
    source = drawn()
    data = written(tmp_path / "d", source, layout=layout, samples_per_shard=30, block_size=8)
    for split, raw in [("train", "train"), ("val", "train"), ("test", "test")]:
        urls = [data.location(shard) for shard in data.manifest.splits[split].shards]
        found = {}
        for sample in webdataset.WebDataset(urls, shardshuffle=False).decode(
            "rgb8" if layout == "block" else "l8"
        ):
            if layout == "block":
                rows = zip(
                    sample["index.npy"], sample["images.npy"], sample["labels.npy"], strict=True
                )
                found |= {int(i): (image, int(label)) for i, image, label in rows}
            else:
                found[int(sample["__key__"])] = (sample["png"][None], sample["cls"])
        assert sorted(found) == data.arrays(split).index.tolist()
        for index, (image, label) in found.items():
            assert np.array_equal(image, source.splits[raw].images[index])
            assert label == source.splits[raw].labels[index]


@pytest.mark.parametrize("layout", ["block", "sample"])
def test_same_input_gives_the_same_bytes(tmp_path, layout):
    settings = {"layout": layout, "samples_per_shard": 16, "block_size": 4}
    written(tmp_path / "a", **settings, writers=1)
    written(tmp_path / "b", **settings, writers=2)
    assert sums(tmp_path / "a") == sums(tmp_path / "b")
    assert sorted(f.name for f in tmp_path.iterdir()) == ["a", "b"]
    written(tmp_path / "c", **settings, split_seed=1)
    assert sums(tmp_path / "a") != sums(tmp_path / "c")


def test_split_is_scikit_learns(tmp_path):
    source = digits()
    labels = source.splits["train"].labels
    train, val = next(StratifiedKFold(5, shuffle=True, random_state=42).split(labels, labels))
    data = written(tmp_path / "d", source)
    assert np.array_equal(data.arrays("train").index, train)
    assert np.array_equal(data.arrays("val").index, val)
    assert data.manifest.splits["val"].class_counts == np.bincount(labels[val]).tolist()
    other = written(tmp_path / "e", source, folds=3, fold=2, stratify=False)
    assert other.manifest.splits["val"].count == len(labels) // 3


def test_mean_and_std_are_those_of_the_train_split(tmp_path):
    data = written(tmp_path / "d", drawn(shape=(3, 6, 5)))
    pixels = data.arrays("train").images / 255
    assert np.allclose(data.manifest.mean, pixels.mean((0, 2, 3)), rtol=1e-12)
    assert np.allclose(data.manifest.std, pixels.std((0, 2, 3)), rtol=1e-12)


def test_a_folder_that_is_there_is_kept(tmp_path):
    written(tmp_path / "d", writers=1)
    before = (tmp_path / "d" / "manifest.json").stat()
    written(tmp_path / "d", writers=2)
    assert (tmp_path / "d" / "manifest.json").stat() == before
    with pytest.raises(ValueError, match="--overwrite"):
        written(tmp_path / "d", block_size=7)
    data = written(tmp_path / "d", block_size=7, overwrite=True)
    assert data.manifest.block_size == 7
    assert verify(str(tmp_path / "d")) == []
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="not a data folder"):
        written(tmp_path / "mine")


def test_opening_what_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="vae-dist prepare"):
        open_data(str(tmp_path))
    data = written(tmp_path / "d")
    manifest = tmp_path / "d" / "manifest.json"
    record = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(record | {"version": 99}))
    with pytest.raises(ValueError, match="newer"):
        open_data(data.path)
    manifest.write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        open_data(data.path)


def cut(path):
    path.write_bytes(path.read_bytes()[:-2000])


def flip(path):
    content = bytearray(path.read_bytes())
    content[2000] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("layout", ["block", "sample"])
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut, "bytes, the manifest says"),
        (flip, "CRC-32"),
        (lambda p: p.unlink(), "cannot be read"),
    ],
)
def test_verify_names_damage(tmp_path, layout, damage, said):
    data = written(tmp_path / "d", layout=layout, samples_per_shard=16)
    assert verify(data.path) == []
    damage(tmp_path / "d" / "train-000002.tar")
    faults = verify(data.path)
    assert len(faults) == 1
    assert "train-000002.tar" in faults[0]
    assert said in faults[0]


def test_verify_names_strays_and_a_wrong_manifest(tmp_path):
    data = written(tmp_path / "d", samples_per_shard=16)
    (tmp_path / "d" / "extra-000000.tar").write_bytes(b"")
    manifest = tmp_path / "d" / "manifest.json"
    record = json.loads(manifest.read_text())
    record["splits"]["val"]["count"] += 1
    record["splits"]["val"]["class_counts"][0] += 1
    record["fingerprint"] = "0" * 64
    manifest.write_text(json.dumps(record))
    faults = "\n".join(verify(data.path))
    for said in ("extra-000000.tar", "val has 21 images", "images by class", "fingerprint"):
        assert said in faults
