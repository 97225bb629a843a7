"""Choices and bounds stand in the types of fields and hold for every configuration."""

import dataclasses
import math
from typing import Annotated, Literal

import pytest

from data_pipeline.checks import (
    Above,
    AtLeast,
    AtMost,
    Below,
    Odd,
    OneOf,
    Within,
    check_fields,
)
from data_pipeline.errors import UserError


@dataclasses.dataclass(kw_only=True)
class Oven:
    shelf_count: Annotated[int, AtLeast(1)] = 2
    heat: Annotated[float, Above(0)] = 1.0
    share: Annotated[float, Within(0, 1, open=True)] = 0.5
    rise: Annotated[float, Above(0), AtMost(1)] = 1.0
    damp: Annotated[float, AtLeast(0), Below(1)] = 0.0
    tilt: Annotated[int, Within(0, 90)] = 0
    racks: Annotated[int, AtLeast(1), Odd()] = 1
    mode: Literal["fan", "grill"] = "fan"
    colour: Annotated[str, OneOf("red", "grey")] = "red"
    timer: Annotated[int | None, AtLeast(1)] = None
    trays: Annotated[tuple[int, ...], AtLeast(1)] = (1, 2)
    dish: Annotated[str, OneOf("pie", more=lambda: ["tart"])] = "tart"

    def __post_init__(self) -> None:
        check_fields(self)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("shelf_count", 0, "--shelf-count 0: must be at least 1"),
        ("shelf_count", 2**63, f"--shelf-count {2**63}: must be below 2**63"),
        ("heat", 0.0, "--heat 0.0: must be above 0"),
        ("heat", math.nan, "--heat nan: must be above 0"),
        ("heat", math.inf, "--heat inf: must be above 0"),
        ("share", 1.0, "--share 1.0: must lie between 0 and 1"),
        ("rise", 0.0, "--rise 0.0: must be above 0"),
        ("rise", 1.5, "--rise 1.5: must be at most 1"),
        ("damp", 1.0, "--damp 1.0: must be below 1"),
        ("damp", math.nan, "--damp nan: must be at least 0"),
        ("tilt", 91, "--tilt 91: must be 0 to 90"),
        ("racks", 4, "--racks 4: must be odd"),
        ("mode", "steam", "--mode steam: expected one of fan, grill"),
        ("colour", "Red", "--colour Red: expected one of red, grey"),
        ("timer", 0, "--timer 0: must be at least 1"),
        ("trays", (2, 0), "--trays 0: must be at least 1"),
        ("dish", "soup", "--dish soup: expected one of pie, tart"),
    ],
)
def test_what_a_type_does_not_allow_is_named(field: str, value: object, said: str) -> None:
    with pytest.raises(UserError) as error:
        Oven(**{field: value})
    assert str(error.value) == said


def test_ends_count_unless_open() -> None:
    assert Oven(shelf_count=1, share=0.001, rise=1.0, damp=0.0, tilt=90).timer is None
