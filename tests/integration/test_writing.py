"""Writing is all or nothing: killed anywhere, or on a full disk."""

import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest

import data_pipeline
from data_pipeline.batch import Arrays
from data_pipeline.folder import open_data
from data_pipeline.folder.verify import verify
from data_pipeline.write.config import PrepareConfig
from data_pipeline.write.folder import write_folder
from tests.data_folders import ArraySource, drawn, written


def write(out, writers=1, block_size=8, die_at=None, file_limit=None):
    """Write a folder in a process of its own, which dies right before its n-th rename."""

    def run():
        if file_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
        if die_at:
            renames = iter(range(1, die_at))
            sys.addaudithook(
                lambda event, _: event == "os.rename" and next(renames, None) is None and die()
            )
        config = PrepareConfig(
            writers=writers, block_size=block_size, samples_per_shard=16, overwrite=True
        )
        write_folder(drawn(), out, config)

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def exit_code(process):
    process.join(60)
    return process.exitcode


def content(folder):
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


# The 9 shards and their records are renames 1 to 18, then three indexes and the manifest,
# then (of a folder that is replaced) the old one away and the new one into place.
@pytest.mark.parametrize("die_at", [1, 2, 9, 19, 22, 23, 24])
def test_killed_at_any_rename(tmp_path, die_at):
    out, untouched = tmp_path / "d", tmp_path / "untouched"
    written(out, samples_per_shard=16, block_size=4)
    before = content(out)
    written(untouched, samples_per_shard=16, block_size=8)
    assert exit_code(write(out, die_at=die_at)) == -signal.SIGKILL
    if die_at < 24:
        assert content(out) == before
        assert verify(str(out)) == []
    else:  # between the two renames: no folder, rather than a wrong one
        assert not out.exists()
    started = {f: f.stat().st_mtime_ns for f in (tmp_path / ".d.partial").glob("build-*/*.tar")}
    assert len(started) == min((die_at - 1 + 1) // 2, 9)
    assert exit_code(write(out)) == 0
    assert content(out) == content(untouched)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["d", "untouched"]
    kept = [f for f, t in started.items() if (out / f.name).stat().st_mtime_ns == t]
    assert len(kept) == min((die_at - 1) // 2, 9)  # what had its record was not written again


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.2])
def test_killed_at_any_time_with_several_writers(tmp_path, delay):
    out = tmp_path / "d"
    killed = write(out, writers=2)
    while not (tmp_path / ".d.partial").exists() and killed.is_alive():
        time.sleep(0.01)
    time.sleep(delay)
    killed.kill()
    killed.join()
    assert not out.exists() or verify(str(out)) == []
    assert exit_code(write(out, writers=2)) == 0
    assert verify(str(out)) == []
    assert [f.name for f in tmp_path.iterdir()] == ["d"]


def test_what_a_kill_left_beside_a_whole_folder_is_cleared(tmp_path):
    assert exit_code(write(tmp_path / "d")) == 0
    (tmp_path / ".d.partial" / "old").mkdir(parents=True)
    assert exit_code(write(tmp_path / "d")) == 0
    assert [f.name for f in tmp_path.iterdir()] == ["d"]
    assert verify(str(tmp_path / "d")) == []


def test_two_at_once_write_once(tmp_path):
    both = [write(tmp_path / "d") for _ in range(2)]
    assert [exit_code(p) for p in both] == [0, 0]
    assert verify(str(tmp_path / "d")) == []
    assert [f.name for f in tmp_path.iterdir()] == ["d"]


@pytest.mark.parametrize("writers", [1, 2])
def test_a_file_size_limit_leaves_nothing(tmp_path, writers, capfd):
    assert exit_code(write(tmp_path / "d", writers, file_limit=2000)) == 1
    assert "File too large" in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_keeps_the_old_folder(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(tmp_path)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        written(tmp_path / "d", samples_per_shard=16)
        before = content(tmp_path / "d")
        big = drawn(train=1500, shape=(1, 16, 16))
        for layout in ("block", "sample"):  # one is foreseen, one is not
            with pytest.raises(ValueError, match="No space left on device"):
                written(tmp_path / "d", big, layout=layout, overwrite=True, samples_per_shard=99)
            assert content(tmp_path / "d") == before
            assert [f.name for f in tmp_path.iterdir()] == ["d"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


class Lazy:
    """Images that are made when they are asked for, by slices only."""

    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, where):
        assert isinstance(where, slice)
        return self.images[where]


def test_lazy_images_give_the_same_shards(tmp_path):
    held = drawn()
    splits = {k: Arrays(Lazy(a.images), a.labels, a.index) for k, a in held.splits.items()}
    lazy = ArraySource(splits, held.classes)
    one = written(tmp_path / "a", held, samples_per_shard=16)
    other = written(tmp_path / "b", lazy, samples_per_shard=16, writers=2)
    assert one.manifest.fingerprint == other.manifest.fingerprint


def test_manifest_follows_its_schema_and_wids_names_the_shards(tmp_path):
    schema = json.loads(
        (Path(data_pipeline.__file__).parent / "folder" / "manifest.schema.json").read_text()
    )
    for layout, samples in (("block", [4, 4, 4, 4, 4]), ("sample", [16] * 5)):
        folder = tmp_path / layout
        data = written(folder, layout=layout, samples_per_shard=16, block_size=4)
        jsonschema.validate(json.loads((folder / "manifest.json").read_text()), schema)
        index = json.loads((folder / "train.wids.json").read_text())
        assert (index["__kind__"], index["wids_version"]) == ("wids-shard-index-v1", 1)
        assert [s["url"] for s in index["shardlist"]] == [f"train-{n:06d}.tar" for n in range(5)]
        assert [s["nsamples"] for s in index["shardlist"]] == samples
        assert [s["filesize"] for s in index["shardlist"]] == [
            (folder / s.name).stat().st_size for s in data.manifest.splits["train"].shards
        ]


def test_a_folder_of_version_1_is_read(tmp_path):
    data = written(tmp_path / "d", samples_per_shard=16)
    manifest = tmp_path / "d" / "manifest.json"
    record = json.loads(manifest.read_text())
    record["version"] = 1
    for split in record["splits"].values():
        for shard in split["shards"]:
            del shard["crc32"]
    manifest.write_text(json.dumps(record))
    assert verify(data.path) == []
    assert len(open_data(data.path).arrays("train").labels) == 80


def test_progress_counts_images(tmp_path):
    seen = []
    config = PrepareConfig(writers=1, samples_per_shard=50)
    write_folder(drawn(), tmp_path / "d", config, lambda *step: seen.append(step))
    assert seen == [(50, 120), (80, 120), (100, 120), (120, 120)]


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        (np.zeros((10, 1, 2, 2), np.float32), np.zeros(10, np.int64), "uint8"),
        (np.zeros((10, 2, 2), np.uint8), np.zeros(10, np.int64), r"\(n, C, H, W\)"),
        (np.zeros((10, 1, 2, 2), np.uint8), np.full(10, 3), "classes"),
        (np.zeros((10, 1, 2, 2), np.uint8), np.zeros(9, np.int64), "unequal counts"),
        (np.zeros((0, 1, 2, 2), np.uint8), np.zeros(0, np.int64), "no training images"),
        (np.zeros((3, 1, 2, 2), np.uint8), np.zeros(3, np.int64), "--folds 5"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, images, labels, said):
    source = ArraySource({"train": Arrays(images, labels, np.arange(len(images)))}, ["a"])
    with pytest.raises(ValueError, match=said):
        written(tmp_path / "d", source)
    assert list(tmp_path.iterdir()) == []


def test_two_channels_cannot_be_pngs(tmp_path):
    with pytest.raises(ValueError, match="--layout block"):
        written(tmp_path / "d", drawn(shape=(2, 5, 5)), layout="sample")
    assert written(tmp_path / "e", drawn(shape=(2, 5, 5))).manifest.image_shape == (2, 5, 5)


def test_sizes_follow_the_images():
    config = PrepareConfig()
    assert config.sizes((1, 28, 28)) == (256, 8192)
    assert config.sizes((3, 64, 64)) == (16, 8192)
    assert config.sizes((3, 512, 512)) == (1, 128)
    assert PrepareConfig(block_size=7, samples_per_shard=9).sizes((1, 28, 28)) == (7, 9)


@pytest.mark.parametrize(
    "wrong",
    [{"layout": "zip"}, {"folds": 1}, {"fold": 5}, {"block_size": -1}, {"writers": -1}],
)
def test_settings_name_their_flag(wrong):
    flag = "--" + next(iter(wrong)).replace("_", "-")
    with pytest.raises(ValueError, match=flag):
        PrepareConfig(**wrong)
