"""A real S3 server (moto's, a process of its own) behind a proxy that fails on request."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


@dataclass
class StoreServer:
    """The proxy; each request that matches the first of `faults` uses it up.

    A fault is ``(METHOD, pattern of the path, kind)``; kinds: a status as ``500``, ``"cut"`` before
    the answer is whole, ``"slow"`` (2 s), ``"hold"`` (until the test ends; `held` is set).
    """

    port: int
    url: str = ""
    faults: list[tuple[str, str, object]] = field(default_factory=list)
    gone: bool = False
    """Close every connection without an answer."""
    held: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str]] = field(default_factory=list)

    def fault(self, method: str, path: str) -> object:
        for number, (wanted, pattern, kind) in enumerate(self.faults):
            if wanted == method and re.search(pattern, path):
                del self.faults[number]
                return kind
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: StoreServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _forward(self) -> None:
        state = self.state
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        state.requests.append((self.command, self.path))
        kind = "gone" if state.gone else state.fault(self.command, self.path)
        if kind == "hold":
            state.held.set()
            state.ended.wait(60)
        if kind in ("gone", "hold"):
            self.close_connection = True
            return
        if isinstance(kind, int):
            self._answer(kind, [], b"<Error><Code>InternalError</Code></Error>")
            return
        if kind == "slow":
            time.sleep(2)
        upstream = http.client.HTTPConnection("127.0.0.1", state.port, timeout=60)
        upstream.request(self.command, self.path, body, dict(self.headers))
        answer = upstream.getresponse()
        content = answer.read()
        if kind == "cut":
            self.send_response(answer.status)
            self.send_header("Content-Length", str(max(len(content), 99)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            self.close_connection = True
            return
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self._answer(answer.status, answer.getheaders(), content, length)
        upstream.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP:
                self.send_header(name, value)
        self.send_header("Content-Length", length or str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _forward


@contextmanager
def store_server() -> Iterator[StoreServer]:
    """Start both, with a bucket ``runs``."""
    command = [sys.executable, "-c", _MOTO]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as moto:
        try:
            assert moto.stdout is not None
            state = StoreServer(int(moto.stdout.readline()))
            handler = type("Handler", (_Handler,), {"state": state})
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            server.daemon_threads = True
            state.url = f"http://127.0.0.1:{server.server_address[1]}"
            threading.Thread(target=server.serve_forever, daemon=True).start()
            made = http.client.HTTPConnection("127.0.0.1", state.port)
            made.request("PUT", "/runs")
            assert made.getresponse().status == 200
            yield state
            state.ended.set()
            server.shutdown()
            server.server_close()
        finally:
            moto.kill()


_MOTO = """
import time
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
time.sleep(3600)
"""
