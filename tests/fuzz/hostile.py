"""Files made to do harm: each must be refused, or read without doing any."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_PART = 1 << 20


@dataclass(frozen=True)
class Hostile:
    """Content for the place of a kind's file."""

    kind: str
    what: str
    content: Callable[[], bytes]


class _Canary:
    """Unpickled by a careless reader, makes a file."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch canary",)


def _pickle() -> bytes:
    return pickle.dumps(_Canary(), protocol=2)


def _zip(members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED, zeros: int = 0) -> bytes:
    """A zip file; behind the content of each member some zeros."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", packing, compresslevel=1) as packed:
        for name, content in members.items():
            with packed.open(name, "w", force_zip64=True) as member:
                member.write(content)
                for _ in range(zeros // _PART):
                    member.write(bytes(_PART))
    return stream.getvalue()


def _png(side: int) -> bytes:
    """A black PNG, without holding its pixels."""
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(bytes(side + 1)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    out = b"\x89PNG\r\n\x1a\n"
    for kind, data in ((b"IHDR", head), (b"IDAT", body), (b"IEND", b"")):
        out += (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )
    return out


def _npy(shape: str, descr: str = "|u1", body: bytes = b"") -> bytes:
    head = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head.encode() + body


def _objects() -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.array([_Canary()], dtype=object), allow_pickle=True)
    return stream.getvalue()


def _torch(member: bytes) -> bytes:
    return _zip({"archive/data.pkl": member, "archive/version": b"3\n"}, zipfile.ZIP_STORED)


def _tar(*members: tuple[str, bytes, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.linkname = kind, len(content), "/etc/passwd"
            packed.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def _sparse(size: int) -> bytes:
    """A tar member of the old GNU sparse kind that claims to unpack to `size` bytes."""
    info = tarfile.TarInfo("train-000000-000000.images.npy")
    info.type = tarfile.GNUTYPE_SPARSE
    head = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    head[386:410] = b"%011o\0%011o\0" % (0, 0)
    head[483:495] = b"%011o\0" % min(size, 8**11 - 1)
    head[148:156] = b" " * 8
    head[148:156] = b"%06o\0 " % sum(head)
    return bytes(head) + bytes(1024)


def _bomb(size: int) -> bytes:
    return gzip.compress(bytes(_PART), 9) * (size // _PART)


DEEP = b"[" * 200_000 + b"]" * 200_000
BIG_NUMBER = b'{"version": ' + b"9" * 5000 + b"}"
JSONS = (
    "manifest.json",
    "config.json",
    "meta.json",
    "status.json",
    "results.json",
    "cache record",
    "wids.json",
)
LINES = ("metrics.jsonl", "telemetry.jsonl", "curves")
ARRAYS = ("npz", "labels.npz", "embedding.npz", "artifacts.npz", "cache array")
STATES = ("article2018, zip", "article2018, legacy", "trainer.pt")

HOSTILE = [
    *(Hostile(kind, "nested 200,000 deep", lambda: DEEP) for kind in (*JSONS, *LINES)),
    *(Hostile(kind, "a number of 5,000 digits", lambda: BIG_NUMBER) for kind in (*JSONS, *LINES)),
    *(Hostile(kind, "not UTF-8", lambda: b'{"a": "\xff\xfe"}') for kind in (*JSONS, *LINES, "settings.toml")),
    *(Hostile(kind, "empty", lambda: b"") for kind in (*JSONS, *LINES, *ARRAYS, *STATES, "shard, block", "png", "idx", "settings.toml", "model.safetensors")),
    *(Hostile(kind, "null", lambda: b"null\n") for kind in (*JSONS, *LINES)),
    *(Hostile(kind, "100 MB of zeros", lambda: bytes(100 << 20)) for kind in ("metrics.jsonl", "manifest.json", "settings.toml")),
    *(Hostile(kind, "a pickle that runs a command", _pickle) for kind in (*ARRAYS, *STATES, "npy", "shard, block", "model.safetensors")),
    *(Hostile(kind, "a torch file that runs a command", lambda: _torch(_pickle())) for kind in STATES),
    *(Hostile(kind, "an array of objects", lambda: _zip({"images.npy": _objects(), "labels.npy": _objects()})) for kind in ARRAYS),
    Hostile("npy", "an array of objects", _objects),
    *(Hostile(kind, "unpacks to 1.2 GB", lambda: _zip({"images.npy": _npy("(1258291200,)")}, zeros=1200 * _PART)) for kind in ("npz",)),
    *(Hostile(kind, "promises 10**12 bytes", lambda: _zip({"images.npy": _npy("(1000000, 1000, 1000)")})) for kind in ARRAYS),
    Hostile("npy", "promises 10**12 bytes", lambda: _npy("(1000000, 1000, 1000)")),
    Hostile("npy", "promises 3 GB", lambda: _npy("(3000000, 1000)")),
    Hostile("npy", "a head that is no literal", lambda: _npy("__import__('os').system('touch canary')")),
    *(Hostile(kind, "names that leave the folder", lambda: _zip({"../../x.npy": _npy("(1,)", body=b"1"), "/x.npy": _npy("(1,)", body=b"1")})) for kind in ARRAYS),
    Hostile("idx.gz", "unpacks to 2 GB", lambda: _bomb(2_000_000_000)),
    Hostile("idx", "promises 2**64 images", lambda: struct.pack(">4I", 2051, 2**32 - 1, 2**32 - 1, 2**32 - 1)),
    Hostile("idx", "255 dimensions", lambda: b"\0\0\x08\xff" + b"\0\0\0\1" * 255 + b"1"),
    Hostile("shard, block", "names that leave the folder", lambda: _tar(("../../x.images.npy", tarfile.REGTYPE, b"x"), ("/x.labels.npy", tarfile.REGTYPE, b"x"))),
    Hostile("shard, block", "links and devices", lambda: _tar(("a.images.npy", tarfile.SYMTYPE, b""), ("a.labels.npy", tarfile.CHRTYPE, b""), ("a.index.npy", tarfile.FIFOTYPE, b""))),
    Hostile("shard, block", "pickles as members", lambda: _tar(("a.pyd", tarfile.REGTYPE, _pickle()), ("a.pickle", tarfile.REGTYPE, _pickle()))),
    Hostile("shard, block", "an array of objects", lambda: _tar(*((f"a.{n}.npy", tarfile.REGTYPE, _objects()) for n in ("images", "labels", "index")))),
    Hostile("shard, block", "a sparse member of 8 GB", lambda: _sparse(8 << 30)),
    Hostile("shard, sample", "a PNG of 20000x20000", lambda: _tar(("000000000.png", tarfile.REGTYPE, _png(20_000)), ("000000000.cls", tarfile.REGTYPE, b"1"))),
    Hostile("png", "a PNG of 20000x20000", lambda: _png(20_000)),
    Hostile("png", "a PNG of 12000x12000", lambda: _png(12_000)),
    Hostile("png", "SVG with a script", lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>"),
    Hostile("png", "PostScript", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary) (w) file closefile\n%%EOF\n"),
    Hostile("model.safetensors", "a head of 2**40 bytes", lambda: struct.pack("<Q", 2**40) + b"{}"),
    Hostile("model.safetensors", "a head of 90 MB", lambda: struct.pack("<Q", 90 << 20) + b" " * (90 << 20)),
    Hostile("settings.toml", "nested 5,000 deep", lambda: b"a = " + b"[" * 5000 + b"]" * 5000),
    Hostile("settings.toml", "a table a line", lambda: b"".join(b"[a%d]\n" % i for i in range(10_000))),
    *(Hostile("results.json", f"HTML in {key}", lambda key=key: json.dumps({"schema": 1, key: "<script>alert(1)</script>"}).encode()) for key in ("dataset", "protocol")),
]  # fmt: skip

REGRESSIONS = [
    Hostile(file.parent.name, file.name, file.read_bytes)
    for file in sorted((Path(__file__).parent / "regressions").glob("*/*"))
]
"""Files that were once read wrongly, in folders named as their kind."""
