"""What a stored number means as a brightness: taken only where type and values leave no doubt."""

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.sources.pixels import parse_scale, said, scale_for, to_bytes
from data_pipeline.sources.tally import Tally

OVER_ONE = np.float32(1.0000002)


def _tally(values: np.ndarray) -> Tally:
    tally = Tally(values.dtype)
    for part in np.array_split(values, 3):
        tally.add(part)
    return tally


def _ends(dtype: str, *ends: float) -> np.ndarray:
    return np.array([*ends, *ends], dtype)


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        (_ends("?", 0, 1), 0, 1),
        (_ends("u1", 0, 1), 0, 1),
        (_ends("i8", 0, 1), 0, 1),
        (_ends("u1", 0, 200), 0, 255),
        (_ends("u1", 3, 16), 0, 255),
        (_ends("i8", 0, 255), 0, 255),
        (_ends("u2", 0, 255), 0, 255),
        (_ends("u2", 0, 700), 0, 1023),
        (_ends("u2", 500, 1499), 0, 4095),
        (_ends("i4", 0, 4095), 0, 4095),
        (_ends("u2", 0, 4096), 0, 16383),
        (_ends("u2", 0, 65535), 0, 65535),
        (_ends("f4", 0, OVER_ONE), 0, 1),
        (_ends("f8", -0.001, 1.001), 0, 1),
        (_ends("f2", 0, 0.5), 0, 1),
        (_ends("f4", -1, 1), -1, 1),
        (_ends("f8", 0, 255), 0, 255),
    ],
)
def test_auto_takes_what_leaves_no_doubt(values, low, high):
    scale = scale_for("auto", _tally(values), "set")
    assert (scale.low, scale.high) == (low, high)


@pytest.mark.parametrize(
    "values",
    [
        _ends("i1", -128, 127),
        _ends("i2", -1000, 3000),
        _ends("i8", 0, 16),
        _ends("u2", 0, 100),
        _ends("u4", 0, 70_000),
        _ends("f4", 0, 16),
        _ends("f4", -0.2, 1),
        _ends("f4", 0, 1.3),
        _ends("f8", -2.1, 2.6),
        _ends("f4", 0, 65535),
    ],
)
def test_auto_refuses_what_it_cannot_know_and_names_the_flag(values):
    low, high = values.min(), values.max()
    with pytest.raises(UserError, match=rf"set: .* give --scale=LOW,HIGH \(as --scale={low:g},"):
        scale_for("auto", _tally(values), "set")
    scale = scale_for(f"{low},{high}", _tally(values), "set")
    levels = to_bytes(values, scale)
    assert (levels.min(), levels.max()) == (0, 255)


@pytest.mark.parametrize("values", [_ends("f4", 0, np.nan), _ends("f8", -np.inf, 1)])
@pytest.mark.parametrize("asked", ["auto", "0,1", "percentile"])
def test_values_that_are_not_finite_are_refused_whatever_is_asked(values, asked):
    with pytest.raises(UserError, match=r"2 of 4 values are NaN or infinite"):
        scale_for(asked, _tally(values), "set")


@pytest.mark.parametrize("dtype", ["U1", "c8", "M8[s]"])
def test_types_without_a_brightness_are_refused(dtype):
    with pytest.raises(UserError, match="numbers expected"):
        scale_for("0,1", Tally(np.dtype(dtype)), "set")


@pytest.mark.parametrize("dtype", ["u1", "u2", "i4", "f4", "f8"])
def test_values_become_levels_by_the_formula(dtype):
    values = np.linspace(0, 250, 97).astype(dtype)
    scale = scale_for("10,230", _tally(values), "set")
    wanted = np.round(np.clip((values.astype(float) - 10) / 220, 0, 1) * 255)
    assert np.array_equal(to_bytes(values, scale), wanted.astype(np.uint8))


@pytest.mark.parametrize("dtype", ["u2", "i4", "f8"])
def test_percentiles_are_those_of_all_values_in_whatever_parts_they_came(dtype):
    values = np.random.default_rng(0).permutation(np.arange(50_000)).astype(dtype)
    scale = scale_for("percentile", _tally(values), "set")
    low, high = np.percentile(values, (0.1, 99.9))
    assert abs(scale.low - low) <= 1
    assert abs(scale.high - high) <= 1
    assert "0.20% of the values lie outside" in str(said(_tally(values), scale, "set"))


def test_what_was_assumed_is_said_and_bytes_are_bytes():
    def line(values: np.ndarray, asked: str = "auto") -> str | None:
        tally = _tally(values)
        return said(tally, scale_for(asked, tally, "set"), "set")

    assert line(_ends("u1", 0, 255)) is None
    assert "nearly black: if 16 is white, give --scale=0,16" in str(line(_ends("u1", 0, 16)))
    assert "every value is 7" in str(line(_ends("u1", 7, 7)))
    assert "0 becomes black and 4095 white (the fewest bits" in str(line(_ends("u2", 9, 4000)))
    assert "50.00% of the values lie outside" in str(line(_ends("u1", 0, 200), "100,255"))


@pytest.mark.parametrize("text", ["", "5", "1,0", "0,nan", "0,inf", "a,b", "1,1", "0,1,2", "max"])
def test_a_scale_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="expected auto, percentile, or LOW,HIGH"):
        parse_scale(text)
