"""A data folder on the Hugging Face Hub, read by its own client from a stand-in of the Hub."""

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from tests.data_folders import drawn, written

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


class _Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of the Hub to read files: repository, path, content."""

    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        if self.path.startswith("/api/datasets/user/set/tree/"):
            self._answer(200, self._entries())
            return
        if self.path.startswith("/api/datasets/user/set"):
            self._answer(200, {"id": "user/set", "sha": "0" * 40, "siblings": []})
            return
        file = self.folder / self.path.partition("?")[0].rpartition("/")[2]
        if not self.path.startswith("/datasets/user/set/resolve/main/") or not file.is_file():
            self._answer(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        content = file.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        headers = {"ETag": '"x"', "X-Repo-Commit": "0" * 40}
        if wanted:
            total, start = len(content), int(wanted[1])
            content = content[start : int(wanted[2]) + 1 if wanted[2] else total]
            headers["Content-Range"] = f"bytes {start}-{start + len(content) - 1}/{total}"
        self._answer(206 if wanted else 200, content, headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = parse_qs(body)["paths"]
        self._answer(200, [entry for entry in self._entries() if entry["path"] in paths])

    def _entries(self) -> list[dict]:
        return [
            {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": "0" * 40}
            for p in self.folder.iterdir()
        ]

    def _answer(self, code: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path) -> Iterator[str]:
    written(tmp_path / "set", drawn(300), samples_per_shard=64, block_size=8)
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Hub", (_Hub,), {"folder": tmp_path / "set"})
    )
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_data_folder_is_read_from_the_hub(hub, tmp_path):
    pytest.importorskip("huggingface_hub")
    environment = os.environ | {  # the client reads it when it is imported
        "HF_ENDPOINT": hub,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
    }
    done = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "cache")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    faults, missing = done.stdout.splitlines()
    assert faults == "[]"
    assert missing == "hf://datasets/user/set/nothing: no data folder (no manifest.json there)"
