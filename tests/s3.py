"""A real S3 server (moto's) on 127.0.0.1."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def s3_at(url: str) -> Iterator[None]:
    """Let programs find an S3 server as users' own are found, by the environment.

    s3fs keeps its clients for the whole process: those of another server are dropped first.
    """
    s3fs = pytest.importorskip("s3fs")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", url)
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@contextmanager
def s3_server() -> Iterator[str]:
    """Start the server; its address."""
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    with s3_at(url):
        yield url
    server.stop()
