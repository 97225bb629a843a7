"""A real HTTP server on 127.0.0.1 that fails on request."""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class FaultyServer:
    """Serves `files`; each request to a path uses up one of its `faults`.

    A fault is ``("status", code)``, ``("cut", n)`` and ``("stall", n)`` after n bytes of the
    body, ``("retry-after", seconds)`` or ``("ignore-range",)``.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, deque[tuple]] = field(default_factory=lambda: defaultdict(deque))
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    ranges: bool = True
    delay: float = 0.0
    """Seconds between chunks, to make a transfer last."""
    before_answer: threading.Barrier | None = None
    """Every GET waits at it, so that only requests made at once get through."""
    met: int = 0
    url: str = ""
    stopping: threading.Event = field(default_factory=threading.Event)

    def fail(self, path: str, *faults: tuple) -> None:
        self.faults[path].extend(faults)

    def gets(self, path: str) -> list[str | None]:
        """The Range header of every GET of a path."""
        return [r for method, p, r in self.requests if method == "GET" and p == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: FaultyServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        state, path = self.state, self.path.lstrip("/")
        state.requests.append((self.command, path, self.headers.get("Range")))
        if body and state.before_answer is not None:
            state.before_answer.wait(10)
            state.met += 1
        faults = state.faults[path]
        kind, *rest = faults.popleft() if faults else ("none",)
        if kind in ("status", "retry-after") or path not in state.files:
            code = rest[0] if kind == "status" else 503 if kind == "retry-after" else 404
            self.send_response(code)
            if kind == "retry-after":
                self.send_header("Retry-After", str(rest[0]))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = state.files[path]
        start = 0
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted and state.ranges and kind != "ignore-range":
            start = int(wanted[1])
            stop = int(wanted[2]) + 1 if wanted[2] else len(content)
            if start >= len(content):
                self.send_response(416)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
            content = content[start:stop]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not body:
            return
        stop = min(rest[0], len(content)) if kind in ("cut", "stall") else len(content)
        step = 1 << 16
        for begin in range(0, stop, step):
            self.wfile.write(content[begin : min(begin + step, stop)])
            if state.delay:
                time.sleep(state.delay)
        if kind == "stall":
            self.wfile.flush()
            state.stopping.wait(30)
        if kind in ("cut", "stall"):
            self.close_connection = True
            self.connection.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients of these tests leave in the middle, as they should


@contextmanager
def faulty_server() -> Iterator[FaultyServer]:
    state = FaultyServer()
    handler = type("Handler", (_Handler,), {"state": state})
    server = _Server(("127.0.0.1", 0), handler)
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield state
    finally:
        state.stopping.set()
        server.shutdown()
        server.server_close()
        thread.join()
