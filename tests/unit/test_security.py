"""SECURITY.md names the tests that hold its promises."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/\S+?\.py)::(\w+)`", TEXT)))


def test_each_promise_names_a_test() -> None:
    rows = [row for row in TEXT.splitlines() if row.startswith("| ") and "held by" not in row]
    assert len(rows) > 10
    assert [row for row in rows if "::test_" not in row] == []


@pytest.mark.parametrize(("file", "test"), NAMED)
def test_the_named_test_is_there(file: str, test: str) -> None:
    assert f"\ndef {test}(" in (ROOT / file).read_text()
