"""Faults of the machine for real: a preloaded C library under which chosen calls fail."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("shim.c")


@dataclass(frozen=True)
class Fault:
    """Which call fails, how; see ``shim.c``."""

    call: str
    part: str = "-"
    nth: int = 1
    times: int = 0
    error: int = errno.ENOSPC

    def text(self, fired: Path) -> str:
        """As the library takes it; it makes the file `fired` when the fault strikes."""
        return f"{self.call} {self.part} {self.nth} {self.times} {self.error} {fired}"


def build() -> Path:
    """Compile the library, once for all harnesses of this machine."""
    mark = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"vae-dist-faults-{os.getuid()}-{mark}.so"
    if not library.exists():
        part = library.with_suffix(f".{os.getpid()}")
        words = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", part, SOURCE, "-ldl"]
        subprocess.run(words, check=True)
        part.rename(library)
    return library


def arm(text: str) -> None:
    """Set the fault of this process, which runs under the library; empty: none."""
    ctypes.CDLL(None).fault_arm(text.encode())
