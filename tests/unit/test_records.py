"""Files of JSON become dataclasses, or one line that names the file and the field."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from data_pipeline.errors import UserError
from data_pipeline.records import parse_json, read_json, read_record


@dataclass(kw_only=True)
class Part:
    name: str
    sizes: list[int]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise UserError(f"weight {self.weight}: must not be negative")


@dataclass(kw_only=True)
class Whole:
    shape: tuple[int, int]
    layout: Literal["block", "sample"] = "block"
    parts: dict[str, Part] = field(default_factory=dict)
    score: float | None = None
    on: bool = False
    where: Path | None = None
    words: tuple[str, ...] = ()
    more: dict[str, Any] = field(default_factory=dict)


GOOD: dict[str, Any] = {"name": "a", "sizes": [1, 2]}


def test_a_record_is_read_whole() -> None:
    value = {"shape": [1, 2], "parts": {"x": GOOD | {"weight": 2}}, "score": None, "on": True}
    value |= {"where": "runs/a", "words": ["b", "c"], "more": {"any": [None]}, "layout": "sample"}
    read = read_record(Whole, value, "f")
    part = Part(name="a", sizes=[1, 2], weight=2.0)
    assert read == Whole(
        shape=(1, 2), layout="sample", parts={"x": part}, on=True, where=Path("runs/a"),
        words=("b", "c"), more={"any": [None]},
    )  # fmt: skip
    assert isinstance(read.parts["x"].weight, float)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"shape": [1]}, "shape is a list of 1, expected a list of 2"),
        ({"shape": [1, 2.5]}, r"shape\[1\] is 2.5, expected a whole number"),
        ({"shape": [1, True]}, r"shape\[1\] is true, expected a whole number"),
        ({"shape": "12"}, 'shape is "12", expected a list'),
        ({"layout": "blocks"}, "layout is .* expected one of block, sample"),
        ({"parts": {"x": {"name": "a"}}}, r"parts\.x\.sizes is missing"),
        ({"parts": {"x": GOOD | {"sizes": [1, None]}}}, r"parts\.x\.sizes\[1\] is null"),
        ({"parts": {"x": GOOD | {"weight": -1}}}, r"parts\.x: weight -1\.0: must not"),
        ({"parts": {"x": GOOD | {"extra": 1}}}, r"parts\.x\.extra is not a field"),
        ({"parts": []}, "parts is .*, expected an object"),
        ({"score": float("nan")}, "score is NaN, expected a finite number"),
        ({"score": 10**400}, "score is 1000.*, expected a finite number"),
        ({"on": 1}, "on is 1, expected true or false"),
        ({"where": 3}, "where is 3, expected a text"),
        ({"words": ["\ud800"]}, r'words\[0\] is "\\ud800", expected a text'),
        ({"another": 1}, "another is not a field that is known here"),
    ],
)
def test_a_wrong_field_is_named(change: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=f"runs/a.json: damaged: {told}.*; write it again"):
        read_record(Whole, {"shape": [1, 2], **change}, "runs/a.json", fix="write it again")


def test_unknown_fields_are_ignored_where_asked() -> None:
    value = {"shape": [1, 2], "new": 3, "parts": {"x": GOOD | {"new": 4}}}
    assert read_record(Whole, value, "f", ignore_unknown=True).parts["x"].name == "a"


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"{", b"[1]", b'"a"', b"null", b"[" * 100_000, b"\0\0\0"]
)
def test_what_is_no_object_is_one_line(text: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text)
    with pytest.raises(UserError, match=r"a\.json: damaged") as caught:
        read_json(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="there: damaged"):
        parse_json(text, "there")


def test_files_that_cannot_be_read_are_the_users(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path / "none.json")
    with pytest.raises(UserError, match="cannot be read"):
        read_json(tmp_path)
    (tmp_path / "long").write_text('"' + "a" * 2000 + '"')
    with pytest.raises(UserError, match="larger than"):
        read_json(tmp_path / "long", limit=1000)
