import hashlib
import os
import tempfile
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.remote.cache import Cache
from data_pipeline.remote.transfer import Patience

SIZES = [100, 200, 300, 400, 500]
CONTENT = [bytes([n]) * size for n, size in enumerate(SIZES)]
SUMS = [hashlib.sha256(content).hexdigest() for content in CONTENT]
LIMIT = 900

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["get", "get", "get", "flip", "cut", "lose", "forget", "restart", "part"]),
        st.integers(0, len(SIZES) - 1),
    ),
    max_size=25,
)


def _path(number: int) -> str:
    return f"memory://cache-test/{number}"


def _harm(folder: Path, step: str, number: int) -> None:
    path = folder / SUMS[number]
    if step == "part":  # a killed process's half, of this or of another file
        part = path.with_suffix(f".{SIZES[number]}.part")
        part.write_bytes(CONTENT[number - 1][:50] if number % 2 else CONTENT[number][:50])
    elif path.exists():
        if step == "flip":
            path.write_bytes(b"\xff" + path.read_bytes()[1:])
        elif step == "cut":
            os.truncate(path, 10)
        elif step == "lose":
            path.unlink()
        elif step == "forget":
            path.with_suffix(".json").unlink(missing_ok=True)


@pytest.mark.filterwarnings("ignore:.*fetched again")
@settings(deadline=None, max_examples=60)
@given(STEPS)
def test_whatever_happens_the_content_is_right_and_the_limit_is_kept(steps):
    memory = fsspec.filesystem("memory")
    for number, content in enumerate(CONTENT):
        memory.pipe_file(f"/cache-test/{number}", content)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "cache"
        cache = Cache(folder, LIMIT)
        for step, number in steps:
            if step == "get":
                path = cache.path(_path(number), SUMS[number], SIZES[number], Patience(retries=0))
                assert path.read_bytes() == CONTENT[number]
                assert sum(p.stat().st_size for p in folder.iterdir() if p.name in SUMS) <= LIMIT
            elif step == "restart":
                cache = Cache(folder, LIMIT)
            elif folder.exists():
                _harm(folder, step, number)
