"""``prepare --dataset hf``: a data set of the Hub by its id, from a stand-in, and by its folder."""

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import UserError
from data_pipeline.folder import open_data
from data_pipeline.sources import SourceConfig, load_source
from data_pipeline.sources.hf import address_of
from launch.cli import main
from tests.integration.hub_stand_in import client_of, hub

COUNTS = {"train": 40, "test": 10}


def _table(path: Path, count: int, first: int) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    rows = []
    for n in range(first, first + count):
        stream = io.BytesIO()
        Image.fromarray(np.full((8, 8), n, np.uint8)).save(stream, "png")
        rows.append({"image": {"bytes": stream.getvalue(), "path": f"{n}.png"}, "label": n % 5})
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(arrow.Table.from_pylist(rows), path)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """What a data set's repository holds: a card, and a parquet file for each split."""
    folder = tmp_path / "set"
    for part, count in COUNTS.items():
        _table(folder / "data" / f"{part}-00000-of-00001.parquet", count, 100 * (part == "test"))
    (folder / "README.md").write_text("# A set\n")
    return folder


def test_an_id_is_brought_from_the_hub_and_gives_the_folder_that_its_files_give(
    repository: Path, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    local, remote = tmp_path / "local", tmp_path / "remote"
    words = ["prepare", "--dataset", "hf", "--out"]
    assert main([*words, str(local), "--source", str(repository)]) == 0
    with hub(repository) as address:
        done = subprocess.run(
            [sys.executable, "-m", "launch.cli", *words, str(remote), "--source", "user/set"],
            env=os.environ | client_of(address, tmp_path / "home"),
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    here, there = (open_data(str(path)).manifest for path in (local, remote))
    assert {name: split.count for name, split in here.splits.items()}["test"] == COUNTS["test"]
    assert here.splits == there.splits
    assert (here.name, there.name) == ("set", "set")
    assert there.provenance["source"]["found"] == "hf://datasets/user/set"


def test_a_folder_of_pictures_is_read_as_one(tmp_path: Path) -> None:
    for part, count in COUNTS.items():
        (tmp_path / part / "a").mkdir(parents=True)
        for n in range(count):
            Image.new("L", (8, 8), n).save(tmp_path / part / "a" / f"{n}.png")
    data = load_source(SourceConfig(dataset="hf", source=str(tmp_path)))
    assert {name: len(split.images) for name, split in data.splits.items()} == COUNTS


def test_several_configurations_are_named_and_one_of_them_is_read(repository: Path) -> None:
    _table(repository / "small" / "train.parquet", 5, 0)
    with pytest.raises(UserError, match=r"several configurations.*: data, small; Fix"):
        load_source(SourceConfig(dataset="hf", source=str(repository)))
    data = load_source(SourceConfig(dataset="hf", source=str(repository / "data")))
    assert len(data.splits["test"].images) == COUNTS["test"]


def test_only_an_id_becomes_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert address_of("user/set") == "hf://datasets/user/set"
    assert address_of("user/set/small") == "hf://datasets/user/set/small"
    assert address_of("s3://bucket/set") == "s3://bucket/set"
    assert address_of("/data/set") == "/data/set"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "set").mkdir(parents=True)
    assert address_of("user/set") == "user/set"
    with pytest.raises(UserError, match="no such folder, and no id; Fix"):
        load_source(SourceConfig(dataset="hf", source="nothing"))
