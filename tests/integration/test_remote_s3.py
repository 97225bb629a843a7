from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.folder import DataFolder, open_data
from data_pipeline.folder.verify import verify
from data_pipeline.load.config import LoaderConfig
from tests.data_folders import drawn, written
from tests.s3 import s3_server


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture(scope="module")
def bucket(endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[DataFolder, str]:
    import boto3

    folder = tmp_path_factory.mktemp("s3") / "set"
    here = written(folder, drawn(300), samples_per_shard=64, block_size=8)
    client = boto3.client("s3", endpoint_url=endpoint)
    client.create_bucket(Bucket="images")
    for path in folder.iterdir():
        client.upload_file(str(path), "images", f"sets/one/{path.name}")
    return here, "s3://images/sets/one"


def _config(tmp_path: Path) -> LoaderConfig:
    return LoaderConfig(cache_dir=tmp_path / "cache", remote_timeout=5.0, remote_retries=1)


def test_a_data_folder_is_read_from_s3(bucket, tmp_path):
    here, url = bucket
    there = open_data(url, config=_config(tmp_path))
    for split in ("train", "val", "test"):
        for one, other in zip(here.arrays(split), there.arrays(split), strict=True):
            assert np.array_equal(one, other)
    assert verify(url, _config(tmp_path)) == []


def test_a_missing_bucket_or_key_is_named(bucket, tmp_path):
    for url in ("s3://images/sets/two", "s3://nowhere/sets/one"):
        with pytest.raises(ValueError, match=rf"{url}: no data folder"):
            open_data(url, config=_config(tmp_path))


def test_a_changed_object_is_named(bucket, endpoint, tmp_path):
    import boto3

    here, url = bucket
    client = boto3.client("s3", endpoint_url=endpoint)
    name = here.manifest.split("train").shards[1].name
    whole = (Path(here.path) / name).read_bytes()
    client.put_object(Bucket="images", Key=f"sets/one/{name}", Body=whole[:-1] + b"x")
    try:
        data = open_data(url, config=_config(tmp_path))
        with pytest.raises(ValueError, match=f"{name}: has another SHA-256"):
            data.arrays("train")
    finally:
        client.put_object(Bucket="images", Key=f"sets/one/{name}", Body=whole)


def test_a_library_that_is_missing_is_named(tmp_path):
    try:
        import gcsfs  # noqa: F401
    except ImportError:
        pass
    else:
        pytest.skip("gcsfs is installed")
    with pytest.raises(ValueError, match=r'gs:// needs a library .* pip install "vae-dist\[gcs\]"'):
        open_data("gs://bucket/set", config=_config(tmp_path))
