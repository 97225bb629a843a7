"""Reading JSON into dataclasses: the structure is checked where a file is read, in one place."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from data_pipeline.errors import UserError, files_of_user

MAX_JSON_BYTES = 1 << 28
"""No file of JSON that this program writes is larger; more is refused before it is read."""

Record = TypeVar("Record")


def read_json(path: Path, *, fix: str = "", limit: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object that a JSON file holds.

    Parameters
    ----------
    path : Path
    fix : str
        What the user can do where it is damaged; ends the message.
    limit : int
        Bytes; a larger file is refused before it is read.

    Raises
    ------
    UserError
        If the file cannot be read, is too large, or holds no JSON object.
    """
    with files_of_user(f"{path}: cannot be read", fix), path.open("rb") as file:
        text = file.read(limit + 1)
    if len(text) > limit:
        raise UserError(f"{path}: larger than {limit / 1e6:,.0f} MB, so not a file of this program")
    return parse_json(text, str(path), fix=fix)


def parse_json(text: str | bytes, where: str, *, fix: str = "") -> dict[str, Any]:
    """The object that a JSON text holds; `where` names the text in messages.

    Raises
    ------
    UserError
        If it is not UTF-8, not JSON, or not an object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged(where, f"not JSON: {error}", fix) from error
    if not isinstance(value, dict):
        raise _damaged(where, f"holds {_shown(value)}, expected an object", fix)
    return value


def read_record(
    kind: type[Record], value: Any, where: str, *, fix: str = "", ignore_unknown: bool = False
) -> Record:
    """A dataclass from what JSON gave, each field checked against its type.

    Understood are ``int``, ``float`` (finite; an int is taken), ``str`` (that can be printed),
    ``bool``, ``None``, ``Any``, ``Literal``, unions, ``list``, ``tuple``, ``dict`` with string
    keys, ``Path`` and further dataclasses. What ``__post_init__`` refuses is refused here too.

    Parameters
    ----------
    kind : type
        A dataclass. Fields that have a default may be missing.
    value : object
        Of a file, hence anything.
    where : str
        Path or address, for messages.
    fix : str
        What the user can do about it; ends the message.
    ignore_unknown : bool
        Take no offence at fields that `kind` does not have.

    Raises
    ------
    UserError
        Names `where`, the field, what it holds and what was expected.
    """
    try:
        return _record(kind, value, "", ignore_unknown)
    except _MismatchError as mismatch:
        raise _damaged(where, str(mismatch), fix) from None


class _MismatchError(Exception):
    """A field does not hold what its type says."""


def _damaged(where: str, what: str, fix: str) -> UserError:
    return UserError(f"{where}: damaged: {what}" + (f"; {fix}" if fix else ""))


def _record(kind: type, value: Any, field: str, ignore_unknown: bool) -> Any:
    if not isinstance(value, Mapping):
        raise _expected("an object", value, field)
    hints, fields = _hints(kind), {f.name: f for f in dataclasses.fields(kind) if f.init}
    within = f"{field}." if field else ""
    for name in value:
        if name not in fields and not ignore_unknown:
            raise _MismatchError(f"{within}{name} is not a field that is known here")
    content = {}
    for name, one in fields.items():
        if name in value:
            content[name] = _typed(hints[name], value[name], within + name, ignore_unknown)
        elif one.default is one.default_factory is dataclasses.MISSING:
            raise _MismatchError(f"{within}{name} is missing")
    try:
        return kind(**content)
    except UserError as error:
        raise _MismatchError(f"{field}: {error}" if field else str(error)) from error


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _typed(kind: Any, value: Any, field: str, ignore_unknown: bool) -> Any:
    """`value` as the type `kind` says, or `_MismatchError` that names `field`."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return value
    if kind is None or kind is types.NoneType:
        if value is None:
            return None
        raise _expected("null", value, field)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, field, ignore_unknown)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
        raise _expected("one of " + ", ".join(map(str, arguments)), value, field)
    if dataclasses.is_dataclass(kind):
        return _record(typing.cast("type", kind), value, field, ignore_unknown)
    if (origin or kind) in (list, tuple):
        return _sequence(origin or kind, arguments, value, field, ignore_unknown)
    if (origin or kind) is dict:
        if not isinstance(value, dict):
            raise _expected("an object", value, field)
        inner = arguments[1] if arguments else Any
        return {k: _typed(inner, v, f"{field}.{k}", ignore_unknown) for k, v in value.items()}
    return _plain(kind, value, field)


def _plain(kind: Any, value: Any, field: str) -> Any:
    if kind is bool and isinstance(value, bool):
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if math.isfinite(number):
            return number
    if kind in (str, Path) and isinstance(value, str) and _printable(value):
        return kind(value)
    names = {bool: "true or false", int: "a whole number", float: "a finite number"}
    assert kind in (bool, int, float, str, Path), f"{field}: {kind} is not understood"
    raise _expected(names.get(kind, "a text"), value, field)


def _one_of(choices: tuple[Any, ...], value: Any, field: str, ignore_unknown: bool) -> Any:
    complaints = []
    for choice in choices:
        try:
            return _typed(choice, value, field, ignore_unknown)
        except _MismatchError as error:
            if choice is not types.NoneType:
                complaints.append(error)
    raise complaints[-1]


def _sequence(
    kind: type, arguments: tuple[Any, ...], value: Any, field: str, ignore_unknown: bool
) -> Any:
    if not isinstance(value, list | tuple):
        raise _expected("a list", value, field)
    each = arguments or (Any, ...)
    if kind is list or each[-1] is Ellipsis:
        inner = [each[0]] * len(value)
    elif len(value) == len(each):
        inner = list(each)
    else:
        raise _expected(f"a list of {len(each)}", value, field)
    return kind(
        _typed(one, item, f"{field}[{place}]", ignore_unknown)
        for place, (one, item) in enumerate(zip(inner, value, strict=True))
    )


def _expected(what: str, value: Any, field: str) -> _MismatchError:
    return _MismatchError(f"{field or 'the record'} is {_shown(value)}, expected {what}")


def _printable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return False
    return True


def _shown(value: Any) -> str:
    if isinstance(value, dict | list) and value:
        return f"{'an object' if isinstance(value, dict) else 'a list'} of {len(value)}"
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
