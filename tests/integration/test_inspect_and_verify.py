"""``vae-dist inspect`` and ``verify``, and the search for bad shards."""

import io
import json
import pickle
import tarfile
import time

import numpy as np
import pytest
from PIL import Image

from data_pipeline.folder import open_data
from data_pipeline.folder.tars import npy_array, npy_bytes, read_block
from data_pipeline.folder.verify import find_bad_shards, verify
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from launch.cli import main
from tests.data_folders import digits, drawn, written


@pytest.mark.parametrize("layout", ["block", "sample"])
def test_inspect_shows_counts_and_writes_a_picture(tmp_path, capsys, layout):
    data = written(tmp_path / "d", digits(), layout=layout)
    assert main(["inspect", data.path, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    labels = digits().splits["test"].labels
    expected = {str(c): int((labels == c).sum()) for c in range(10)}
    assert record["splits"]["test"]["images_by_class"] == expected
    assert record["splits"]["train"]["images"] + record["splits"]["val"]["images"] == 1497
    assert list(record["splits"]) == ["train", "val", "test"]
    assert record["picture"] == f"{data.path}/samples.png"
    with Image.open(record["picture"]) as picture:
        assert picture.size == (10 * 8 * 7, 10 * 8 * 7)
        assert len(picture.getcolors()) > 10
    assert main(["inspect", data.path, "--picture", str(tmp_path / "p.png")]) == 0
    said = capsys.readouterr().out
    assert "digits: 1x8x8 images" in said
    assert "mean 0.30" in said
    assert (tmp_path / "p.png").exists()
    assert verify(data.path) == []  # the picture is no stray


def test_inspect_without_labels_and_in_colour(tmp_path, capsys):
    source = drawn(shape=(3, 40, 50))
    for arrays in source.splits.values():
        arrays.labels[:] = -1
    source.classes.clear()
    data = written(tmp_path / "d", source)
    assert main(["inspect", data.path]) == 0
    with Image.open(tmp_path / "d" / "samples.png") as picture:
        assert picture.mode == "RGB"
        assert picture.width == 500


def test_verify_exits_with_what_it_found(tmp_path, capsys):
    data = written(tmp_path / "d", samples_per_shard=16)
    assert main(["verify", data.path]) == 0
    assert capsys.readouterr().out == f"{data.path}: whole\n"
    (tmp_path / "d" / "val-000001.tar").unlink()
    (tmp_path / "d" / "val.wids.json").write_text("{}")
    assert main(["verify", data.path, "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert not record["whole"]
    assert "val-000001.tar: cannot be read (No such file" in record["faults"][0]
    assert "val.wids.json" in record["faults"][1]
    assert main(["verify", str(tmp_path / "none")]) == 1
    capsys.readouterr()
    assert main(["verify"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_verify_checks_offsets_and_sums_of_blocks(tmp_path):
    data = written(tmp_path / "d", samples_per_shard=16, block_size=4)
    manifest = tmp_path / "d" / "manifest.json"
    for field in ("offsets", "crc32"):
        record = json.loads(manifest.read_text())
        record["splits"]["train"]["shards"][1][field][2] -= 512
        manifest.write_text(json.dumps(record))
        assert any("train-000001.tar: damaged shard" in fault for fault in verify(data.path))


@pytest.mark.parametrize("mode", ["memory", "stream"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_bad_shards_are_left_out_on_all_ranks_alike(tmp_path, mode, size):
    data = written(tmp_path / "d", samples_per_shard=16)
    for name in ("train-000001.tar", "train-000004.tar"):
        path = tmp_path / "d" / name
        path.write_bytes(path.read_bytes()[:5000])
    shares = [find_bad_shards(data, "train", World(rank, size)) for rank in range(size)]
    bad = {name for share in shares for name in share}
    assert bad == {"train-000001.tar", "train-000004.tar"}
    assert sum(map(len, shares)) == 2
    assert "bytes, the manifest says" in shares[1 % size]["train-000001.tar"]
    seen = []
    for rank in range(size):
        loader = make_loader(
            data, "train", LoaderConfig(loader=mode), World(rank, size), batch_size=10, exclude=bad
        )
        assert loader.excluded == sorted(bad)
        assert (loader.num_images, loader.steps_per_epoch) == (48, 5)
        seen += [i for batch in loader.batches() for i in batch.index.tolist()]
    assert len(seen) == len(set(seen)) == 48


def test_hashes_repeat_although_the_clock_goes_on(tmp_path):
    first = written(tmp_path / "a", samples_per_shard=50).manifest
    time.sleep(1.1)
    assert written(tmp_path / "b", samples_per_shard=50).manifest.fingerprint == first.fingerprint
    with tarfile.open(tmp_path / "a" / "train-000000.tar") as tar:
        assert {member.mtime for member in tar} == {0}


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def test_nothing_is_unpickled(tmp_path):
    written(tmp_path / "d", samples_per_shard=50)
    with tarfile.open(tmp_path / "d" / "train-000000.tar", "a") as tar:
        key = tar.getnames()[-1].split(".")[0]
        for suffix in ("pyd", "pickle", "extra.npy"):
            content = pickle.dumps(Bomb())
            member = tarfile.TarInfo(f"{key}.{suffix}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    content = (tmp_path / "d" / "train-000000.tar").read_bytes()
    assert len(read_block(content, "block", 50, (1, 5, 4), "here").labels) == 50
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.array([Bomb()], dtype=object), (1, 0), allow_pickle=True)
    with pytest.raises(ValueError, match="object"):
        npy_array(stream.getvalue(), "|O", (1,))
    array = np.arange(6).reshape(2, 3)
    assert npy_array(npy_bytes(array), "<i8", (2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_folder_is_opened_by_path_or_address(tmp_path):
    data = written(tmp_path / "d")
    assert open_data(f"{data.path}/").manifest == open_data(f"file://{data.path}").manifest
