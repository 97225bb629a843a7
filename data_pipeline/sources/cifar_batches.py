"""CIFAR's batches as Python wrote them, read without running what a pickle can say.

Such a file is a list of instructions. Here they are read one by one as data: numbers, texts,
lists and dictionaries are put together, and where the file names an object, the name is kept
as a text. Nothing that is named is looked up, imported or called.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.sources.names import shown

_ARRAYS = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_TYPES = ("numpy dtype",)
_BYTES = "_codecs encode"  # how Python 3 writes bytes that Python 2 is to read


@dataclass
class _Named:
    """An object that the file names: its name, what it is made of, and its state."""

    name: str
    arguments: Any = None
    state: Any = None


class _Mark:
    """Where a group of values begins."""


def read_batch(content: bytes, path: Path) -> dict[str, Any]:
    """The dictionary of a batch: values are lists, texts, numbers, or arrays of bytes.

    Parameters
    ----------
    content : bytes
        Of the file.
    path : Path
        For messages.

    Raises
    ------
    UserError
        If the file says anything that CIFAR's do not.
    """
    try:
        value = _value(content)
        if not isinstance(value, dict):
            raise ValueError("no dictionary")
        return {_text(name): _array(v) if isinstance(v, _Named) else v for name, v in value.items()}
    except Exception as error:  # a damaged file may ask for anything of the stack
        reason = shown(" ".join(str(error).split()))[:150] or type(error).__name__
        raise UserError(f"{shown(str(path))}: damaged, or not of CIFAR ({reason})") from None


def _value(content: bytes) -> Any:
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    for code, argument, _ in pickletools.genops(content):
        name = code.name
        if name in ("BINPUT", "LONG_BINPUT", "PUT"):
            memo[int(str(argument))] = stack[-1]
        elif name == "MEMOIZE":
            memo[len(memo)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(memo[int(str(argument))])
        elif name == "STOP":
            return stack.pop()
        elif name in _VALUES:
            stack.append(_VALUES[name](argument))
        elif name in _ACTIONS:
            _ACTIONS[name](stack)
        elif name not in ("PROTO", "FRAME"):
            raise ValueError(f"it says {name}")
    raise ValueError("it has no end")


def _since_mark(stack: list[Any]) -> list[Any]:
    start = max(n for n, value in enumerate(stack) if isinstance(value, _Mark))
    values = stack[start + 1 :]
    del stack[start:]
    return values


def _tuple(count: int) -> Callable[[list[Any]], None]:
    def act(stack: list[Any]) -> None:
        values = tuple(stack[-count:])
        del stack[-count:]
        stack.append(values)

    return act


def _marked_tuple(stack: list[Any]) -> None:
    stack.append(tuple(_since_mark(stack)))


def _make(stack: list[Any]) -> None:
    arguments, named = stack.pop(), stack.pop()
    if named.name == _BYTES:
        text, encoding = arguments
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"it names the encoding {encoding}")
        stack.append(text.encode("latin-1"))
        return
    if named.name not in _ARRAYS + _TYPES:
        raise ValueError(f"it names {named.name}")
    stack.append(_Named(named.name, arguments))


def _build(stack: list[Any]) -> None:
    state = stack.pop()
    if not isinstance(stack[-1], _Named):
        raise ValueError("it gives a state to a plain value")
    stack[-1].state = state


def _name(stack: list[Any]) -> None:
    name, module = stack.pop(), stack.pop()
    stack.append(_Named(f"{_text(module)} {_text(name)}"))


def _extend(stack: list[Any]) -> None:
    values = _since_mark(stack)
    _list_below(stack).extend(values)


def _append(stack: list[Any]) -> None:
    value = stack.pop()
    _list_below(stack).append(value)


def _list_below(stack: list[Any]) -> list[Any]:
    if not isinstance(stack[-1], list):
        raise ValueError("it adds to what is no list")
    below: list[Any] = stack[-1]
    return below


def _set_items(stack: list[Any]) -> None:
    values = _since_mark(stack)
    _set(stack, values)


def _set_item(stack: list[Any]) -> None:
    values = stack[-2:]
    del stack[-2:]
    _set(stack, values)


def _set(stack: list[Any], values: list[Any]) -> None:
    if not isinstance(stack[-1], dict):
        raise ValueError("it sets an item of what is no dictionary")
    for key, value in zip(values[::2], values[1::2], strict=True):
        stack[-1][_text(key)] = value


_VALUES: dict[str, Callable[[Any], Any]] = {
    "MARK": lambda _: _Mark(),
    "NONE": lambda _: None,
    "NEWTRUE": lambda _: True,
    "NEWFALSE": lambda _: False,
    "EMPTY_DICT": lambda _: {},
    "EMPTY_LIST": lambda _: [],
    "EMPTY_TUPLE": lambda _: (),
    "GLOBAL": lambda argument: _Named(str(argument)),
    **dict.fromkeys(
        ("BINSTRING", "SHORT_BINSTRING", "STRING"), lambda text: text.encode("latin-1")
    ),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES"), bytes),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE", "UNICODE"), str),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1"), int),
}
_ACTIONS: dict[str, Callable[[list[Any]], None]] = {
    "TUPLE": _marked_tuple,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "REDUCE": _make,
    "BUILD": _build,
    "STACK_GLOBAL": _name,
    "APPEND": _append,
    "APPENDS": _extend,
    "SETITEM": _set_item,
    "SETITEMS": _set_items,
}


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if not isinstance(value, str):
        raise ValueError("a name is no text")
    return value


def _array(named: _Named) -> np.ndarray:
    """The array of bytes that was described."""
    _, shape, dtype, fortran, content = named.state
    if named.name not in _ARRAYS or dtype.name not in _TYPES:
        raise ValueError("it names no array")
    if _text(dtype.arguments[0]) != "u1" or fortran or not isinstance(content, bytes):
        raise ValueError("the array is not of bytes in C order")
    return np.frombuffer(content, np.uint8).reshape(shape)
