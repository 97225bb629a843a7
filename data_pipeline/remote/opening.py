"""One address opened through fsspec, at any byte: the libraries, their timeouts, plain HTTP."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, BinaryIO

from data_pipeline.errors import UserError

HTTP = ("http", "https")
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "hf": "hf"}


def protocol_of(url: str) -> str:
    """``"file"`` for a plain path, else what stands before ``://`` (the last of a chain)."""
    if "://" not in url:
        return "file"
    return url.split("://", 1)[0].split("::")[-1].lower()


def missing_library(url: str, error: ImportError) -> ValueError:
    """What to say, and to install, where an address needs a library that is not there."""
    protocol = protocol_of(url)
    extra = EXTRAS.get(protocol)
    fix = f'pip install "vae-dist[{extra}]"' if extra else str(error)
    return UserError(f"{url}: {protocol}:// needs a library that is not installed; {fix}")


@contextlib.contextmanager
def open_at(url: str, offset: int, timeout: float) -> Iterator[tuple[BinaryIO, int, int | None]]:
    """Open at `offset`; yields the stream, where it really starts, and the file's length."""
    import fsspec.core

    filesystem, path = fsspec.core.url_to_fs(url, **options(protocol_of(url), timeout))
    if protocol_of(url) in HTTP and "::" not in url:
        with _open_http(filesystem, path, offset) as opened:
            yield opened
        return
    with filesystem.open(path, "rb") as stream:
        size = getattr(stream, "size", None)
        if offset and size is not None and offset >= size:
            offset = 0
        stream.seek(offset)
        yield stream, offset, size


@contextlib.contextmanager
def _open_http(
    filesystem: Any, path: str, offset: int
) -> Iterator[tuple[BinaryIO, int, int | None]]:
    """One streamed GET; fsspec's own block reads hide a server's errors as "not found"."""
    headers = dict(filesystem.kwargs.get("headers") or {}) | {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    try:
        # A size keeps fsspec from asking by HEAD first; block_size 0 is its plain stream.
        stream = filesystem.open(path, "rb", block_size=0, size=1, headers=headers)
    except Exception as error:
        if getattr(error, "status", None) == 416 and offset:  # nothing after offset: start over
            with _open_http(filesystem, path, 0) as opened:
                yield opened
            return
        raise
    with stream:
        length = stream.r.headers.get("Content-Length")
        start = offset if stream.r.status == 206 else 0
        yield stream, start, start + int(length) if length is not None else None


def options(protocol: str, timeout: float) -> dict[str, Any]:
    """Timeouts in each library's own words, over what fsspec's configuration says."""
    from fsspec.config import conf

    given = dict(conf.get(protocol, {}))
    if protocol in HTTP:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=None, sock_connect=timeout, sock_read=timeout)
        own = {"timeout": limit, "trust_env": True}  # proxies are found in the environment
        return {"client_kwargs": own | dict(given.get("client_kwargs", {}))}
    if protocol in ("s3", "s3a"):
        own = {"connect_timeout": timeout, "read_timeout": timeout, "retries": {"max_attempts": 1}}
        return {
            "config_kwargs": own | dict(given.get("config_kwargs", {})),
            "default_block_size": given.get("default_block_size", 8 << 20),
        }
    return {}
