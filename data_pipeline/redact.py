"""The one place that takes secrets out of addresses before they are stored or shown.

An address may hold a password (``https://user:password@host``) or a signature
(``?X-Amz-Signature=...``). What names the data stays; who may read them goes.
"""

from __future__ import annotations

import re
from typing import Any

HIDDEN = "***"

_ADDRESS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*:(?:/|%2[fF]){2})([^\s'\"<>`]*)")
# Up to the last @ of the authority; a password that was not quoted may hold a slash.
_USER = re.compile(r"[^/?#]*@|[^/?#:@]*:(?!\d+(?:[/?#]|$))[^?#]*@|[^/?#:@]*:(?!\d+(?:/|$)).*@")
_QUERY = re.compile(r"[?#].*")
_END_OF_SENTENCE = re.compile(r"[),.:;\]}]+$")


def shown(address: str) -> str:
    """An address as it may be stored and shown; a plain path is given back as it is.

    Parameters
    ----------
    address : str
        Path or address.

    Returns
    -------
    str
        With ``***`` in place of user and password, and of the query.
    """
    return _ADDRESS.sub(lambda match: match[1] + _without_secrets(match[2]), address)


def scrub(text: str) -> str:
    """Free text (a message, a command line, a traceback) with every address in it as `shown`."""
    if "://" not in text and "%2" not in text:
        return text
    return _ADDRESS.sub(_scrubbed, text)


def scrubbed(value: Any) -> Any:
    """What is about to be written as JSON, each text in it through `scrub`."""
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, dict):
        return {name: scrubbed(inner) for name, inner in value.items()}
    return [scrubbed(inner) for inner in value] if isinstance(value, list | tuple) else value


def scrub_parts(address: str, text: str) -> str:
    """Free text with the secrets of one address hidden wherever they stand in it.

    Libraries take an address apart, and their messages hold its parts.
    """
    rest = address.partition("://")[2]
    found = [_USER.match(rest), _QUERY.search(rest)]
    for secret in (match[0].strip("@?#") for match in found if match):
        if secret:
            text = text.replace(secret, HIDDEN)
    return text


def is_shown(address: str) -> bool:
    """Whether an address went through `shown` and lost something: it opens nothing."""
    return "://" in address and HIDDEN in address


def _scrubbed(match: re.Match[str]) -> str:
    rest = match[2]
    end = _END_OF_SENTENCE.search(rest)
    tail = end[0] if end else ""
    return match[1] + _without_secrets(rest[: len(rest) - len(tail)]) + tail


def _without_secrets(rest: str) -> str:
    rest = _USER.sub(f"{HIDDEN}@", rest, count=1) if _USER.match(rest) else rest
    return _QUERY.sub(f"?{HIDDEN}", rest)
