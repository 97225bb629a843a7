"""A stand-in of the Hugging Face Hub: what its client asks to write, list, read and remove files.

Large files go to other servers of the real one, by a protocol of their own (LFS, Xet): here each
file is committed whole.
"""

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote

OID = "0" * 40
API = re.compile(r"/api/(?:models|datasets)/user/(\w+)(?:/(\w[\w-]*)(?:/main)?/?(.*))?")


class _Hub(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    folder: Path

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(self.path.partition("?")[0])
        if asked := API.fullmatch(path):
            name, what, within = asked.groups()
            if name == "closed":
                self._answer(403, {"error": "you may not"})
            elif what == "tree":
                self._list(within, recursive="recursive=true" in self.path.lower())
            else:
                files = [{"rfilename": entry["path"]} for entry in self._entries()]
                self._answer(200, {"id": f"user/{name}", "sha": OID, "siblings": files})
            return
        file = self.folder / path.partition("/resolve/main/")[2]
        if "/resolve/main/" not in path or not file.is_file():
            self._missing()
            return
        content = file.read_bytes()
        headers = {"ETag": f'"{file.stat().st_mtime_ns}"', "X-Repo-Commit": OID}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted:
            total, start = len(content), int(wanted[1])
            content = content[start : int(wanted[2]) + 1 if wanted[2] else total]
            headers["Content-Range"] = f"bytes {start}-{start + len(content) - 1}/{total}"
        self._answer(206 if wanted else 200, content, headers)

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
        elif "/paths-info/" in path:
            paths = parse_qs(body)["paths"]
            self._answer(200, [entry for entry in self._entries() if entry["path"] in paths])
        elif "/commit/" in path:
            self._commit([json.loads(line) for line in body.splitlines()])
        else:
            self._missing()

    def _commit(self, lines: list[dict]) -> None:
        for line in lines:
            file = self.folder / line["value"].get("path", "")
            if line["key"] == "file":
                file.parent.mkdir(parents=True, exist_ok=True)
                partial = file.with_name(f".{file.name}")
                partial.write_bytes(base64.b64decode(line["value"]["content"]))
                partial.replace(file)
            elif line["key"] == "deletedFile":
                if not file.is_file():
                    self._missing("A file with this name doesn't exist")
                    return
                file.unlink()
        url = "http://127.0.0.1/user/model/commit/" + OID
        self._answer(200, {"commitUrl": url, "commitOid": OID})

    def _list(self, within: str, *, recursive: bool) -> None:
        if within and not any(e["path"].startswith(f"{within}/") for e in self._entries()):
            self._missing()
            return
        found: dict[str, dict] = {}
        for entry in self._entries():
            if within and not entry["path"].startswith(f"{within}/"):
                continue
            parts = entry["path"].split("/")
            for depth in range(within.count("/") + bool(within) + 1, len(parts)):
                folder = "/".join(parts[:depth])
                found[folder] = {"type": "directory", "path": folder, "size": 0, "oid": OID}
            found[entry["path"]] = entry
        depth = within.count("/") + 1 if within else 0
        self._answer(200, [e for p, e in found.items() if recursive or p.count("/") == depth])

    def _entries(self) -> list[dict]:
        return [
            {
                "type": "file",
                "path": file.relative_to(self.folder).as_posix(),
                "size": file.stat().st_size,
                "oid": OID,
            }
            for file in sorted(self.folder.rglob("*"))
            if file.is_file() and not file.name.startswith(".")
        ]

    def _missing(self, why: str = "not found") -> None:
        self._answer(404, {"error": why}, {"X-Error-Code": "EntryNotFound"})

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
    """Serve a folder as the one repository of a hub, ``user/…``; yields the hub's address."""
    folder.mkdir(exist_ok=True)
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


def client_of(hub: str, home: Path) -> dict[str, str]:
    """Variables of the environment that send the Hub's client to a stand-in; read at its import."""
    return {
        "HF_ENDPOINT": hub,
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": "hf_test",
        "NO_PROXY": "127.0.0.1",
    }
