"""Files that ask for far more memory than they have bytes stay within a bounded peak."""

import gzip
import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
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
before, settings = peak(), json.loads(sys.argv[1])
try:
    data = load_source(SourceConfig(**settings))
    outcome = f"read {data.splits['train'].images[:1].shape}"
except UserError as error:
    outcome = str(error)
print(json.dumps([outcome, peak() - before]))
"""
ZEROS = bytes(1 << 24)


def _peak(**settings: object) -> tuple[str, float]:
    """What came of a source, and the bytes of memory that it took, in a process of its own."""
    command = [sys.executable, "-c", CHILD, json.dumps(settings)]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    outcome, taken = json.loads(child.stdout.splitlines()[-1])
    return outcome, taken


def _bomb(folder: Path, claimed: int) -> Path:
    """MNIST's files; the images unpack to 1 GB and say that they are `claimed` x 16 MB."""
    for part, count in (("train", claimed), ("t10k", 2)):
        head = gzip.compress(struct.pack(">BBBBIII", 0, 0, 8, 3, count, 4096, 4096))
        (folder / f"{part}-images-idx3-ubyte.gz").write_bytes(head + gzip.compress(ZEROS) * 64)
        labels = struct.pack(">BBBBI", 0, 0, 8, 1, count) + bytes(count)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder


@pytest.mark.parametrize(
    ("claimed", "said"), [(64, "decompression bomb"), (2, "more than"), (10**6, "bomb")]
)
def test_a_gzip_file_that_unpacks_to_1_gb(tmp_path, claimed, said):
    source = str(_bomb(tmp_path, claimed))
    outcome, taken = _peak(dataset="mnist", source=source, check_sums=False)
    assert said in outcome
    assert taken < PEAK


def test_an_npz_that_unpacks_to_1_gb(tmp_path):
    text = repr({"descr": "|u1", "fortran_order": False, "shape": (64, 4096, 4096)}).encode()
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed,
        packed.open("images.npy", "w") as member,
    ):
        member.write(b"\x93NUMPY\x01\x00" + (len(text) + 1).to_bytes(2, "little") + text + b"\n")
        for _ in range(64):
            member.write(ZEROS)
    outcome, taken = _peak(dataset="npz", source=str(tmp_path / "x.npz"))
    assert "decompression bomb" in outcome
    assert taken < PEAK


def test_pictures_as_large_as_they_may_be_with_transparency(tmp_path):
    Image.new("RGBA", (9900, 9000)).save(tmp_path / "0.png", compress_level=1)
    for n in range(1, 4):
        os.link(tmp_path / "0.png", tmp_path / f"{n}.png")
    outcome, taken = _peak(dataset="folder", source=str(tmp_path), image_size=32)
    assert outcome == "read (1, 3, 32, 32)"
    assert taken < PEAK
