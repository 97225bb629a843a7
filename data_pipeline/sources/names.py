"""Names of files and classes as they can be shown and stored, whatever bytes they are."""

from __future__ import annotations

import unicodedata

_HARMFUL = ("Cc", "Cs", "Zl", "Zp")  # control characters, halves of characters, line ends
_TURNING = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def shown(name: str) -> str:
    r"""A name for lines of text and JSON: what is not UTF-8 or moves the cursor as ``\x..``."""
    if name.isprintable():
        return name
    return "".join(_escaped(character) for character in name)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, as Python keeps it
        return f"\\x{ord(character) - 0xDC00:02x}"
    if unicodedata.category(character) in _HARMFUL or character in _TURNING:
        return character.encode("unicode_escape").decode()
    return character
