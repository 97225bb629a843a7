"""What tyro complains of, in one plain line."""

from __future__ import annotations

import re

from data_pipeline.errors import nearest

_PLAIN = (
    # "Error parsing run: --epochs must be ..." : the owner's name says nothing to the user.
    (r"Error parsing [a-z_-]+: (?=--)", ""),
    (
        r"Error parsing (\S+): invalid literal for int\(\).*: '(.*)'",
        r"\1 \2: expected a whole number",
    ),
    (
        r"Error parsing (\S+): could not convert string to float: '(.*)'",
        r"\1 \2: expected a number",
    ),
    (r"Error parsing (\S+): invalid int.*: '(.*)'", r"\1 \2: expected a whole number"),
    (r"Missing value for argument '(?:[^']*/)?([^']*)'.*", r"\1: expected a value"),
    (r"Unrecognized options: ", "not understood: "),
)
"""What tyro says, as a user should read it."""


def in_plain_words(box: str) -> str:
    """The sentence inside the box that tyro draws around a complaint, in plain words."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    if "─" not in text:  # the encoding has no box characters: a title, a rule, the text, a rule
        parts = re.split(r"^ *-{5,} *$", text, flags=re.M)
        text = parts[1] if len(parts) > 1 else text
    lines = [line.strip("│╭╮╰╯ ").strip() for line in text.splitlines()]
    said: list[str] = []
    for line in lines:
        if line.startswith("─") or not line:  # borders and rules
            if said and not line.startswith("─ "):
                break
        elif line.startswith("For full helptext"):
            break
        else:
            said.append(line)
    sentence = " ".join(said)
    choice = re.match(
        r"invalid choice '(.*)' for argument '(\S+)'\. Expected one of \((.*)\)", sentence
    )
    if choice:
        value, flag, choices = choice.groups()
        known = re.findall(r"'([^']*)'", choices)
        return f"{flag} {value}: {nearest(value, known)}"
    missing = re.match(r"Missing from .*?: (.*)", sentence)
    if missing:
        flags = re.findall(r"(--[\w-]+) [A-Z|{}\w]+(?=\s|$)", missing.group(1))  # the last spelling
        return f"give {', '.join(dict.fromkeys(flags)) or missing.group(1)}; --help says what for"
    for pattern, plain in _PLAIN:
        sentence = re.sub(rf"^{pattern}", plain, sentence)
    return sentence
