import gzip
import json
import os
import pty
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.folder import open_data
from data_pipeline.folder.verify import verify
from data_pipeline.sources import SourceConfig, load_source
from launch.cli import main
from launch.prepare import prepare_missing
from tests.integration.faulty_server import faulty_server

DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def _tree(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}


def test_prepare_writes_once_and_then_says_that_it_is_there(tmp_path, capsys):
    out = tmp_path / "digits"
    assert main(["prepare", "--dataset", "digits", "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "digits: 1797 images of scikit-learn" in said.err
    assert "digits: 1x28x28 images, 10 classes" in said.out
    assert "written in" in said.out
    before = _tree(out)
    assert main(["prepare", "--dataset_type", "digits", "--out", str(out)]) == 0
    assert "was there already" in capsys.readouterr().out
    assert _tree(out) == before
    source = load_source(SourceConfig(dataset="digits"))
    test = open_data(str(out)).arrays("test")
    wanted = source.splits["test"]
    order = np.argsort(wanted.index)
    assert np.array_equal(test.images, np.asarray(wanted.images)[order])
    assert np.array_equal(test.labels, wanted.labels[order])


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--dataset", "cifar"], "--dataset cifar: did you mean cifar10?"),
        (["--dataset", "folder"], "--dataset folder needs --source PATH"),
        (["--dataset", "mnist", "--source", "nowhere"], "--source nowhere: no such folder"),
        (["--dataset", "kmnist", "--download", "False"], "--source DIR"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(words, complaint, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    extra = ["--download-dir", str(tmp_path)]
    assert main(["prepare", *words, *extra]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert complaint in lines[0]
    assert not (tmp_path / "data").exists()


def test_a_terminal_gets_bars(tmp_path):
    leader, follower = pty.openpty()
    command = ["prepare", "--dataset", "digits", "--out", str(tmp_path / "d")]
    process = subprocess.Popen(
        [sys.executable, "-m", "launch.cli", *command],
        stderr=follower,
        stdout=subprocess.DEVNULL,
        env=os.environ | {"TERM": "xterm", "COLUMNS": "100"},
    )
    os.close(follower)
    screen = b""
    try:
        while block := os.read(leader, 4096):
            screen += block
    except OSError:  # the other end is closed
        pass
    os.close(leader)
    assert process.wait() == 0
    assert "━".encode() in screen
    assert b"100 %" in screen


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_fashion_mnist_in_another_place_is_the_same_data(tmp_path, capsys):
    copy, out = tmp_path / "copy", tmp_path / "out"
    shutil.copytree(DEBIAN, copy)
    assert main(["prepare", "--out", str(out)]) == 0
    assert main(["prepare", "--out", str(out), "--source", str(copy)]) == 0
    assert "was there already" in capsys.readouterr().out


def test_a_missing_folder_is_prepared_for_whoever_needs_it(tmp_path, capsys):
    prepare_missing("digits", tmp_path / "digits")
    assert "preparing digits" in capsys.readouterr().err
    assert open_data(str(tmp_path / "digits")).manifest.name == "digits"


def test_a_folder_of_images_by_several_writers(tmp_path, capsys):
    root, out = tmp_path / "pets", tmp_path / "out"
    for n in range(60):
        path = root / ("cat", "dog")[n % 2] / f"{n:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 7), (n, 2 * n, 3 * n)).save(path)
    (root / "cat" / "notes.txt").write_text("no image")
    words = ["prepare", "--dataset", "folder", "--source", str(root), "--out", str(out)]
    settings = ["--writers", "2", "--samples-per-shard", "16", "--block-size", "4"]
    assert main([*words, *settings, "--image-size", "8"]) == 0
    said = capsys.readouterr()
    assert "skipped cat/notes.txt: not an image" in said.err
    assert "pets: 3x8x8 images, 2 classes" in said.out
    data = open_data(str(out))
    values = [int(v) for s in ("train", "val", "test") for v in data.arrays(s).images[:, 0, 0, 0]]
    assert sorted(values) == list(range(60))
    assert verify(str(out)) == []
    assert main([*words, *settings, "--image-size", "8"]) == 0
    assert "was there already" in capsys.readouterr().out
    assert main([*words, *settings, "--image-size", "6"]) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_arrays(tmp_path, capsys):
    images = np.arange(50, dtype=np.uint8)[:, None, None].repeat(5, 1).repeat(5, 2)
    np.savez(tmp_path / "tiny.npz", images=images, labels=np.arange(50) % 5)
    source, out = str(tmp_path / "tiny.npz"), str(tmp_path / "out")
    assert main(["prepare", "--dataset", "npz", "--source", source, "--out", out]) == 0
    assert "tiny: 1x5x5 images, 5 classes" in capsys.readouterr().out
    assert verify(out) == []


def test_the_environment_may_name_a_mirror(tmp_path, capsys, monkeypatch):
    rng = np.random.default_rng(0)
    with faulty_server() as server:
        for part, count in (("train", 60), ("t10k", 20)):
            images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            head = struct.pack(">BBBBIII", 0, 0, 8, 3, count, 28, 28)
            content = gzip.compress(head + images.tobytes())
            server.files[f"{part}-images-idx3-ubyte.gz"] = content
            labels = np.arange(count, dtype=np.uint8) % 10
            content = gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, count) + labels.tobytes())
            server.files[f"{part}-labels-idx1-ubyte.gz"] = content
        monkeypatch.setenv("VAE_DIST_MIRROR", server.url)
        words = ["--dataset", "kmnist", "--check-sums", "False", "--out", str(tmp_path / "out")]
        assert main(["prepare", *words, "--download-dir", str(tmp_path / "raw")]) == 0
    assert f"downloaded {server.url}/train-images-idx3-ubyte.gz" in capsys.readouterr().err
    assert verify(str(tmp_path / "out")) == []


def test_pictures_of_five_channels_are_prepared_named_and_trained_on(tmp_path, capsys):
    tifffile = pytest.importorskip("tifffile")
    cube = np.random.default_rng(0).integers(0, 4096, (40, 5, 16, 16), dtype=np.uint16)
    cube[0, 0, 0, :2] = 0, 4095
    for n, image in enumerate(cube):
        path = tmp_path / "in" / ("cat", "dog")[n % 2] / f"{n:02}.ome.tif"
        path.parent.mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(path, image, photometric="minisblack", metadata={"axes": "CYX"}, ome=True)
    out, source = str(tmp_path / "out"), str(tmp_path / "in")
    assert main(["prepare", "--dataset", "tiff", "--source", source, "--out", out]) == 0
    assert "5x16x16 images (uint16, 0 black, 4095 white), 2 classes" in capsys.readouterr().out
    lines = (tmp_path / "out" / "names.jsonl").read_text().splitlines()
    names = {(n["split"], n["index"]): n["name"] for n in map(json.loads, lines)}
    data = open_data(out)
    for split, of in (("train", "train"), ("val", "train"), ("test", "test")):
        arrays = data.arrays(split)
        for image, index in zip(arrays.images, arrays.index, strict=True):
            stored = cube[int(names[of, int(index)][4:6])]
            assert np.array_equal(image, stored)
    assert verify(out) == []
    words = ["train", "--data", out, "--runs-dir", str(tmp_path / "runs"), "--name", "five"]
    assert main([*words, "--model-type", "conv", "--max-steps", "2", "--batch-size", "8"]) == 0


def test_a_data_set_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By ``--name``: in the manifest, and for its folder."""
    monkeypatch.chdir(tmp_path)
    assert main(["prepare", "--dataset", "digits", "--name", "mine"]) == 0
    assert open_data("data/mine").manifest.name == "mine"
    assert "mine: 1x28x28 images" in capsys.readouterr().out
    assert main(["prepare", "--dataset", "digits", "--name", "a/b"]) == 2
    assert "--name a/b: letters, digits" in capsys.readouterr().err
