"""Damaged versions of a file: by bits, by structure, and by meaning.

Every function takes a `random.Random` and the content, and gives another content.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st

NUMBERS = [0, -1, 1, 2, 255, 2**31, 2**63, -(2**63), 10**12, 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf")]  # fmt: skip
STRINGS = ["", "a", "../x", "../../etc/passwd", "/etc/passwd", "~", "x" * 5000, "\0", "a\nb", "\x1b[2J", "\ud800"]  # fmt: skip
STRINGS += ["http://127.0.0.1:9/x", "file:///etc/passwd", "data.tar/../../x", "é", "NaN", "1e999", "{}", "%s%n", "[" * 3000]  # fmt: skip
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"": 0}, [0] * 2000, [[[[[[1]]]]]]]
_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON_VALUES = st.recursive(
    _PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


def drawn_values(count: int, seed: int) -> list[Any]:
    """That many JSON values as hypothesis draws them; the same for the same seed."""
    values: list[Any] = []

    @seeded(seed)
    @settings(
        max_examples=count,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(JSON_VALUES)
    def draw(value: Any) -> None:
        values.append(value)

    draw()
    return values


POOL: list[Any] = [*NUMBERS, *STRINGS, *OTHERS]


def value(rng: Random) -> Any:
    """A value that nobody expects."""
    return copy.deepcopy(rng.choice(POOL))


def bits(rng: Random, content: bytes) -> bytes:
    """Flip, cut, extend, blank, repeat or move bytes."""
    data = bytearray(content)
    if not data:
        return bytes(rng.randrange(256) for _ in range(rng.randrange(20)))
    at = rng.randrange(len(data))
    size = min(rng.choice([1, 2, 4, 8, 64, 512, 4096]), len(data) - at)
    match rng.randrange(9):
        case 0 | 1 | 2:
            for _ in range(rng.choice([1, 1, 2, 8, 100])):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 3:
            del data[at:]
        case 4:
            data[at : at + size] = bytes(size)
        case 5:
            data[at : at + size] = b"\xff" * size
        case 6:
            del data[at : at + size]
        case 7:
            data[at:at] = bytes(rng.randrange(256) for _ in range(size))
        case 8:
            other = rng.randrange(len(data))
            data[at:at] = data[other : other + size]
    return bytes(data)


def json_tree(rng: Random, content: bytes) -> bytes:
    """Change a value, remove or add or rename a key, repeat or drop an item."""
    tree = json.loads(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        tree = changed(rng, tree)
    try:
        return json.dumps(tree).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return content


def changed(rng: Random, tree: Any) -> Any:
    """A tree of lists and dictionaries with one change somewhere in it."""
    places: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, child in items:
            places.append((node, key))
            if isinstance(child, dict | list):
                walk(child)

    if isinstance(tree, dict | list):
        walk(tree)
    if not places or rng.random() < 0.02:
        return value(rng)
    node, key = rng.choice(places)
    old = node[key]
    match rng.randrange(8):
        case 0:
            del node[key]
        case 1 if isinstance(node, dict):
            node[rng.choice(["extra", "", "../x", "__class__", key.upper()])] = value(rng)
        case 2 if isinstance(node, dict):
            node[str(value(rng))[:50]] = node.pop(key)
        case 3 if isinstance(node, list):
            node.insert(rng.randrange(len(node) + 1), copy.deepcopy(old))
        case 4 if isinstance(old, int | float) and not isinstance(old, bool):
            node[key] = rng.choice([old + 1, -old, old * 1000, float(old), str(old), *NUMBERS])
        case 5 if isinstance(old, str):
            node[key] = rng.choice([old + "x", old.upper(), old[:-1], *STRINGS])
        case _:
            node[key] = value(rng)
    return tree


def lines(rng: Random, content: bytes) -> bytes:
    """Change a line's tree or its bytes; repeat, drop or move lines; NULs after a power cut."""
    rows = content.splitlines(keepends=True)
    at = rng.randrange(len(rows))
    match rng.randrange(6):
        case 0 | 1:
            rows[at] = json_tree(rng, rows[at]) + b"\n"
        case 2:
            rows[at] = bits(rng, rows[at])
        case 3:
            rows.insert(at, rng.choice(rows))
        case 4:
            rows[at] = bytes(len(rows[at]))
        case 5:
            rows[at:] = [b"".join(rows[at:])[: rng.randrange(60)]]
    return b"".join(rows)


def toml(rng: Random, content: bytes) -> bytes:
    """Another value or another key in a line; a line twice; a table."""
    rows = content.decode().splitlines()
    at = rng.randrange(len(rows))
    key = rows[at].split("=")[0].strip()
    words = [
        json.dumps(value(rng)),
        "1979-05-27",
        "0x10",
        "inf",
        "'''a\nb'''",
        "[1, 'a']",
        "{a = 1}",
    ]
    match rng.randrange(5):
        case 0 | 1:
            rows[at] = f"{key} = {rng.choice(words)}"
        case 2:
            rows.append(
                f"{rng.choice(['config', 'x', 'help', 'run.name', key])} = {rng.choice(words)}"
            )
        case 3:
            rows.insert(at, f"[{key}]")
        case 4:
            return bits(rng, content)
    return "\n".join(rows).encode("utf-8", "surrogatepass")


def gz(inner: Callable[[Random, bytes], bytes]) -> Callable[[Random, bytes], bytes]:
    """Change what is packed, and pack it again."""
    return lambda rng, content: gzip.compress(inner(rng, gzip.decompress(content)), 1)


def archive(rng: Random, content: bytes) -> bytes:
    """Change members of a zip file (npz, pth.tar) and write it again, its sums right."""
    with zipfile.ZipFile(io.BytesIO(content)) as packed:
        members = [(info.filename, packed.read(info)) for info in packed.infolist()]
    at = rng.randrange(len(members))
    name, data = members[at]
    match rng.randrange(6):
        case 0 | 1:
            members[at] = (name, bits(rng, data))
        case 2:
            members[at] = (name, npy_head(rng, data))
        case 3:
            del members[at]
        case 4:
            members.append((rng.choice(["../x", "/x", name, name + "x", "x.npy"]), data))
        case 5:
            members[at] = (name, rng.choice(members)[1])
    out = io.BytesIO()
    with zipfile.ZipFile(
        out, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    ) as packed:
        for name, data in members:
            packed.writestr(name, data)
    return out.getvalue()


def npy_head(rng: Random, content: bytes) -> bytes:
    """Another shape or type in the head of an npy file, its length right."""
    if not content.startswith(b"\x93NUMPY"):
        return bits(rng, content)
    length = int.from_bytes(content[8:10], "little")
    types = ["|u1", "<i8", "<f4", ">f8", "|O", "<U7", "|b1", "<c16", "<M8[s]", "|V3", "<f2", "[('a','|O')]"]  # fmt: skip
    shapes = ["()", "(0,)", "(10**10,)", "(3,)", "(-1,)", "(1, 2, 3)", "(2, 0)", "(100000, 100000)", "(None,)", "(1.5,)"]  # fmt: skip
    head = (
        f"{{'descr': '{rng.choice(types)}', 'fortran_order': {rng.choice(['True', 'False'])}, "
        f"'shape': {rng.choice(shapes)}, }}"
    )
    if rng.random() < 0.1:
        head = rng.choice(["__import__('os').system('touch canary')", "{" * 5000, "", "1"])
    head = head.ljust(length - 1) + "\n"
    return content[:8] + struct.pack("<H", len(head)) + head.encode() + content[10 + length :]


def tar(rng: Random, content: bytes) -> bytes:
    """Change members of a tar, their names, types and order, and write it again."""
    members: list[tuple[tarfile.TarInfo, bytes]] = []
    with tarfile.open(fileobj=io.BytesIO(content)) as packed:
        for info in packed:
            file = packed.extractfile(info)
            members.append((info, file.read() if file else b""))
    at = rng.randrange(len(members))
    info, data = members[at]
    match rng.randrange(7):
        case 0 | 1:
            members[at] = (info, rng.choice([bits, npy_head])(rng, data))
        case 2:
            info.name = rng.choice(["../x", "/x", info.name + "x", "a", "__bad__", info.name.upper(), "x.pyd", "é.png", "a" * 300])  # fmt: skip
        case 3:
            del members[at]
        case 4:
            members.insert(at, rng.choice(members))
        case 5:
            info.type = rng.choice([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE])  # fmt: skip
            info.linkname = "/etc/passwd"
        case 6:
            members[at] = (info, rng.choice(members)[1])
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as packed:
        for info, data in members:
            info.size = len(data) if info.isreg() else 0
            packed.addfile(info, io.BytesIO(data))
    return out.getvalue()


def safetensors(rng: Random, content: bytes) -> bytes:
    """Change the JSON head of a safetensors file, its length right, or the length alone."""
    length = int.from_bytes(content[:8], "little")
    head, rest = content[8 : 8 + length], content[8 + length :]
    if rng.random() < 0.2:
        return struct.pack("<Q", rng.choice([0, 1, 2**40, 2**63, length + 1])) + head + rest
    head = json_tree(rng, head)
    return struct.pack("<Q", len(head)) + head + rest


def idx(rng: Random, content: bytes) -> bytes:
    """Other numbers in the head of an IDX file."""
    data = bytearray(content)
    at = rng.choice([0, 2, 3, 4, 8, 12])
    data[at : at + 4] = struct.pack(
        ">I", rng.choice([0, 1, 2, 2051, 2**31, 2**32 - 1, len(content)])
    )
    return bytes(data)


def png(rng: Random, content: bytes) -> bytes:
    """Change a chunk of a PNG and make its sum right."""
    chunks, at = [], 8
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    place = rng.randrange(len(chunks))
    kind, data = chunks[place]
    match rng.randrange(4):
        case 0 | 1:
            chunks[place] = (kind, bits(rng, data))
        case 2:
            chunks.insert(place, (rng.choice([b"tEXt", b"acTL", b"iCCP", b"PLTE", b"tRNS", b"eXIf"]), bits(rng, data)))  # fmt: skip
        case 3:
            size = struct.pack(">II", *rng.choices([0, 1, 50, 20_000, 2**31 - 1], k=2))
            deep = rng.choice(
                [b"\x08\x00", b"\x10\x00", b"\x01\x00", b"\x08\x02", b"\x08\x03", b"\x10\x06"]
            )
            chunks[0] = (b"IHDR", size + deep + b"\0\0\0")
    out = content[:8]
    for kind, data in chunks:
        out += struct.pack(">I", len(data)) + kind + data
        out += struct.pack(">I", zlib.crc32(kind + data))
    return out
