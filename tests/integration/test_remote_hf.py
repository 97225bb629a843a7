"""A data folder on the Hugging Face Hub, read by its own client from a stand-in of the Hub."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.data_folders import drawn, written
from tests.integration.hub_stand_in import client_of, hub

READ = """
import sys
from data_pipeline.folder import open_data
from data_pipeline.load.config import LoaderConfig
from data_pipeline.folder.verify import verify

config = LoaderConfig(cache_dir=sys.argv[1], remote_timeout=5.0, remote_retries=0)
print(verify("hf://datasets/user/set", config))
try:
    open_data("hf://datasets/user/set/nothing", config=config)
except ValueError as error:
    print(error)
"""


@pytest.fixture
def hub_address(tmp_path: Path) -> Iterator[str]:
    written(tmp_path / "set", drawn(300), samples_per_shard=64, block_size=8)
    with hub(tmp_path / "set") as address:
        yield address


def test_a_data_folder_is_read_from_the_hub(hub_address, tmp_path):
    pytest.importorskip("huggingface_hub")
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "cache")],
        env=os.environ | client_of(hub_address, tmp_path / "home"),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    faults, missing = done.stdout.splitlines()
    assert faults == "[]"
    assert missing == "hf://datasets/user/set/nothing: no data folder (no manifest.json there)"
