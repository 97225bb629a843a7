"""A stand-in of the Hugging Face Hub: what its client asks to publish a model and to fetch it."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path.startswith("/api/models/user/closed"):
            self._answer(403, {"error": "you may not"})
            return
        if path.startswith("/api/models/user/"):
            files = [{"rfilename": file.name} for file in self.folder.iterdir()]
            self._answer(200, {"id": "user/model", "sha": "0" * 40, "siblings": files})
            return
        file = self.folder / path.rpartition("/")[2]
        if "/resolve/" not in path or not file.is_file():
            self._answer(404, {"error": "not found"}, {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{file.stat().st_mtime_ns}"', "X-Repo-Commit": "0" * 40}
        self._answer(200, file.read_bytes(), headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        path = self.path.partition("?")[0]
        if path == "/api/repos/create":
            if json.loads(body).get("name") == "closed":
                self._answer(403, {"error": "you may not"})
                return
            self._answer(200, {"url": "http://127.0.0.1/user/model", "name": "user/model"})
        elif path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            told = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files
            ]
            self._answer(200, {"files": told})
        elif "/commit/" in path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    value = line["value"]
                    (self.folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
            url = "http://127.0.0.1/user/model/commit/" + "0" * 40
            self._answer(200, {"commitUrl": url, "commitOid": "0" * 40})
        else:
            self._answer(404, {"error": "not found"})

    def _answer(self, code: int, body: object, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Type", "application/json")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """Serve an empty folder as the repository of one model; yields the address."""
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Hub", (_Hub,), {"folder": folder}))
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
