"""Choices and bounds of settings, written once: in the type of the field."""

from __future__ import annotations

import dataclasses
import math
import re
import typing
from collections.abc import Callable, Iterable
from typing import Any

from data_pipeline.errors import UserError, nearest

OF_RUN = "of a run"
"""Marks paths that may be addresses of runs, which a command fetches: ``Annotated[Path, OF_RUN]``."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a number must lie in; never NaN or infinite. Use the functions below."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False
    """Whether both ends are excluded."""

    def fault(self, value: float) -> str | None:
        """What is wrong with a value, or None."""
        inside = self.low < value < self.high if self.open else self.low <= value <= self.high
        if inside and math.isfinite(value):
            return None
        if math.isinf(self.low):
            return f"must be {'below' if self.open else 'at most'} {self.high:g}"
        if math.isinf(self.high):
            return f"must be {'above' if self.open else 'at least'} {self.low:g}"
        if self.open:
            return f"must lie between {self.low:g} and {self.high:g}"
        return f"must be {self.low:g} to {self.high:g}"


def AtLeast(low: float) -> Bounds:
    """A number not below `low`: ``batch_size: Annotated[int, AtLeast(1)]``."""
    return Bounds(low)


def Above(low: float) -> Bounds:
    """A number above `low`."""
    return Bounds(low, open=True)


def AtMost(high: float) -> Bounds:
    """A number not above `high`: ``kl_warmup: Annotated[float, Above(0), AtMost(1)]``."""
    return Bounds(high=high)


def Below(high: float) -> Bounds:
    """A number below `high`."""
    return Bounds(high=high, open=True)


def Within(low: float, high: float, *, open: bool = False) -> Bounds:
    """A number from `low` to `high`; with `open` the ends do not count."""
    return Bounds(low, high, open)


class Odd:
    """A whole number that two does not divide: ``window: Annotated[int, AtLeast(1), Odd()]``."""

    def fault(self, value: int) -> str | None:
        """What is wrong with a value, or None."""
        return None if value % 2 else "must be odd"


class PlainName:
    """A word that can name a folder: ``name: Annotated[str, PlainName()]``."""

    def fault(self, value: str) -> str | None:
        """What is wrong with a value, or None."""
        if re.fullmatch(r"\w[\w.+=@-]*", value):
            return None
        return "letters, digits and . _ + = @ - only, for it names a folder"


class OneOf:
    """One of some words: ``color: Annotated[str, OneOf("auto", "grey")]``.

    Parameters
    ----------
    *choices : str
    more : callable, optional
        Returns further words, those of installed packages; asked only when needed.
    """

    def __init__(self, *choices: str, more: Callable[[], Iterable[str]] = tuple) -> None:
        self.choices = choices
        self.more = more

    def fault(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if value in self.choices or value in (known := [*self.choices, *self.more()]):
            return None
        return nearest(str(value), known)


def check_fields(config: Any) -> None:
    """Hold every field of a configuration against the bounds and choices in its type.

    Called first in a configuration's ``__post_init__``. None and what carries neither
    `Bounds`, `Odd`, `PlainName`, `OneOf` nor ``Literal`` passes, but no whole number beyond 64 bits; of a list
    or tuple every item is checked.

    Raises
    ------
    UserError
        ``--flag VALUE: what is wrong``, of the first field that is wrong.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value is None:
            continue
        hint = hints[field.name]
        rules = [note for note in getattr(hint, "__metadata__", ()) if hasattr(note, "fault")]
        bare = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
        if typing.get_origin(bare) is typing.Literal:
            rules.append(OneOf(*typing.get_args(bare)))
        for each in value if isinstance(value, list | tuple) else [value]:
            if isinstance(each, int) and abs(each) >= 2**63:  # more than a tensor can count
                raise UserError(f"{flag_of(field.name)} {each}: must be below 2**63")
            for rule in rules:
                if fault := rule.fault(each):
                    raise UserError(f"{flag_of(field.name)} {each}: {fault}")


def flag_of(field: str) -> str:
    """The flag of a field, as the user writes it."""
    return "--" + field.replace("_", "-")
