"""A data folder behind an HTTP server that fails, in a process of its own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

from tests.integration.faulty_server import faulty_server


@contextmanager
def dying_server(data: Path, rng: Random | None) -> Iterator[str]:
    """Address of a folder's server; its faults are drawn, with None there are none."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            _serve(data, rng, theirs)
        finally:
            os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as told:
        url = told.readline().strip()
    try:
        yield url
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _serve(data: Path, rng: Random | None, told: int) -> None:
    with faulty_server() as server:
        server.files.update({file.name: file.read_bytes() for file in data.iterdir()})
        last = 10**9
        if rng is not None:
            for name in server.files:
                faults = [("status", 500), ("status", 404), ("cut", 999), ("stall", 99), ("retry-after", 1)]  # fmt: skip
                server.fail(name, *rng.sample(faults, rng.choice([0, 0, 0, 1, 2])))
            last = rng.randint(1, 25)
        os.write(told, (server.url + "\n").encode())
        while len(server.requests) < last:
            time.sleep(0.005)
