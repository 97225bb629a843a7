"""Files that ask for far more memory than they have bytes stay within a bounded peak."""

import gzip
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

from PIL import Image

PEAK = 750e6
"""Bytes above what the program itself takes, for whatever file."""

CHILD = """
import json, resource, sys
import sklearn.model_selection, torch
from PIL import Image
from data_pipeline.errors import UserError
from data_pipeline.sources import SourceConfig, load_source

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

Image.init()
before, outcomes = peak(), []
for settings in json.loads(sys.argv[1]):
    try:
        data = load_source(SourceConfig(**settings))
        outcomes.append(f"read {data.splits['train'].images[:1].shape}")
    except UserError as error:
        outcomes.append(str(error))
    outcomes.append(peak() - before)
print(json.dumps(outcomes))
"""
ZEROS = bytes(1 << 24)


def _gzip_bomb(folder: Path, claimed: int) -> str:
    """MNIST's files; the images unpack to 1 GB and say that they are `claimed` x 16 MB."""
    folder.mkdir()
    for part, count in (("train", claimed), ("t10k", 2)):
        head = gzip.compress(struct.pack(">BBBBIII", 0, 0, 8, 3, count, 4096, 4096))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(head + gzip.compress(ZEROS) * 64)
        labels = struct.pack(">BBBBI", 0, 0, 8, 1, count) + bytes(count)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return str(folder)


def _zip_bomb(path: Path) -> str:
    """An .npz file of 5 MB with an array of 1 GB."""
    text = repr({"descr": "|u1", "fortran_order": False, "shape": (64, 4096, 4096)}).encode()
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
        packed.open("images.npy", "w") as member,
    ):
        member.write(b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n")
        for _ in range(64):
            member.write(ZEROS)
    return str(path)


def _large_pictures(folder: Path) -> str:
    """Pictures with transparency, as large as they may be."""
    folder.mkdir()
    Image.new("RGBA", (9900, 9000)).save(folder / "0.png", compress_level=1)
    os.link(folder / "0.png", folder / "1.png")
    return str(folder)


def test_files_that_unpack_to_1_gb_and_pictures_of_89_million_pixels(tmp_path):
    mnist = {"dataset": "mnist", "check_sums": False}
    wanted = [
        (mnist | {"source": _gzip_bomb(tmp_path / "a", 64)}, "decompression bomb"),
        (mnist | {"source": _gzip_bomb(tmp_path / "b", 2)}, "holds more than"),
        (mnist | {"source": _gzip_bomb(tmp_path / "c", 10**6)}, "decompression bomb"),
        ({"dataset": "npz", "source": _zip_bomb(tmp_path / "x.npz")}, "decompression bomb"),
        (
            {"dataset": "folder", "source": _large_pictures(tmp_path / "d"), "image_size": 32},
            "read (1, 3, 32, 32)",
        ),
    ]
    settings = json.dumps([settings for settings, _ in wanted])
    child = subprocess.run(
        [sys.executable, "-c", CHILD, settings], capture_output=True, text=True, check=True
    )
    found = json.loads(child.stdout.splitlines()[-1])
    for (_, said), outcome, taken in zip(wanted, found[::2], found[1::2], strict=True):
        assert said in outcome
        assert taken < PEAK, outcome
