"""The text of ``--help``: the common flags of a command; ``--help-all`` shows all of them."""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import shutil
import textwrap
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

INDENT = 26
FEW = 8
"""Choices that stand beside a flag; more of them are in its text."""
WORDS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


def show_help(
    prog: str, owners: Sequence[type], argv: Sequence[str], description: str, common: Sequence[str]
) -> None:
    """Print what was asked for, and end; return where nothing was.

    ``--list-flags``, for shell completion, prints nothing but the flags.

    Raises
    ------
    SystemExit
        Code 0, after printing.
    """
    asked = {"-h", "--help", "--help-all", "--list-flags"} & set(argv)
    if not asked:
        return
    if "--list-flags" in asked:
        print(" ".join(f"--{_flag(field)}" for _, field, _ in _fields(owners)))
    else:
        print(describe(prog, owners, description, () if "--help-all" in asked else common))
    raise SystemExit(0)


def describe(prog: str, owners: Sequence[type], description: str, common: Sequence[str]) -> str:
    """The help of a command as one text.

    Parameters
    ----------
    prog : str
        How it is called.
    owners : sequence of dataclass types
        Owners of its flags.
    description : str
        What it does.
    common : sequence of str
        Fields to show; empty: all, by owner.
    """
    width = min(max(shutil.get_terminal_size().columns, 60), 100)
    fields = list(_fields(owners))
    bare = " ".join(_flag(field).upper() for _, field, hint in fields if _positional(hint))
    lines = [" ".join(filter(None, ["usage:", prog, bare, "[flags]"]))]
    for paragraph in description.split("\n\n"):
        lines += ["", *textwrap.wrap(paragraph, width)]
    if common:
        by_name = {field.name: (owner, field, hint) for owner, field, hint in fields}
        lines += ["", *(line for name in common for line in _entry(*by_name[name], width))]
        lines += ["", f"{prog} --help-all shows all {len(fields)} flags."]
        return "\n".join(lines)
    for owner in owners:
        lines += ["", *textwrap.wrap(" ".join((owner.__doc__ or "").split()), width)]
        lines += [line for o, f, h in fields if o is owner for line in _entry(o, f, h, width)]
    return "\n".join(lines)


def _fields(owners: Sequence[type]) -> Iterator[tuple[type, dataclasses.Field[Any], Any]]:
    for owner in owners:
        hints = typing.get_type_hints(owner, include_extras=True)
        for field in dataclasses.fields(owner):
            yield owner, field, hints[field.name]


def _flag(field: dataclasses.Field[Any]) -> str:
    return field.name.replace("_", "-")


def _positional(hint: Any) -> bool:
    return "Positional" in map(repr, getattr(hint, "__metadata__", ()))


def _entry(owner: type, field: dataclasses.Field[Any], hint: Any, width: int) -> Iterator[str]:
    """Lines for one flag: its name and value, what it does, its default, its older name."""
    name = _flag(field).upper() if _positional(hint) else f"--{_flag(field)} {_value(hint)}"
    text = _docs(owner).get(field.name, "")
    older = [
        a for note in getattr(hint, "__metadata__", ()) for a in getattr(note, "aliases", ()) or ()
    ]
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
        text += " (required)"
    elif default not in (dataclasses.MISSING, None, "", ()):
        text += f" (default: {default})"
    if older:
        text += f" Also {', '.join(older)}."
    wrapped = textwrap.wrap(text, width - INDENT) or [""]
    head = f"  {name}"
    if len(head) < INDENT:
        yield f"{head:<{INDENT}}{wrapped.pop(0)}"
    else:
        yield head
    yield from (" " * INDENT + line for line in wrapped)


def _value(hint: Any) -> str:
    """The value a flag takes, as in ``N``, ``{a,b}`` or ``[True|False]``."""
    for note in getattr(hint, "__metadata__", ()):
        if choices := getattr(note, "choices", None):
            return "{" + ",".join(choices) + "}" if len(choices) <= FEW else "NAME"
    if hasattr(hint, "__metadata__"):
        hint = typing.get_args(hint)[0]
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return "|".join(
            dict.fromkeys(_value(part) for part in inside if part is not types.NoneType)
        )
    if origin is typing.Literal:
        return "{" + ",".join(map(str, inside)) + "}"
    if origin in (list, tuple):
        return f"{_value(inside[0])} ..."
    return "[True|False]" if hint is bool else WORDS.get(hint, "VALUE")


@functools.cache
def _docs(owner: type) -> dict[str, str]:
    """The docstring under each field of a dataclass and of those it inherits from."""
    found: dict[str, str] = {}
    for kind in reversed(owner.__mro__):
        if not dataclasses.is_dataclass(kind):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
        assert isinstance(body, ast.ClassDef)
        for node, after in zip(body.body, body.body[1:], strict=False):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                match after:
                    case ast.Expr(value=ast.Constant(value=str(text))):
                        found[node.target.id] = " ".join(text.split())
    return found
