"""What the user got wrong, told apart from bugs by type and not by guessing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from data_pipeline.redact import scrub


class UserError(ValueError):
    """The user's input, files or machine are at fault: one line, exit code 2, no traceback.

    Raised on purpose only. The message names what is wrong, where, and the fix; passwords and
    signatures of addresses in it are hidden. Any other exception that leaves a command is a
    bug and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(scrub(message))


@contextmanager
def files_of_user(what: str, fix: str = "") -> Iterator[None]:
    """Turn an ``OSError`` into a `UserError` where the user's files are opened or written.

    Parameters
    ----------
    what : str
        What was being done to which file, as in ``"--out runs/a: cannot be written"``.
    fix : str
        What to do about it; not needed where the reason says it.

    Raises
    ------
    UserError
        ``WHAT (REASON: PATH); FIX``, from the ``OSError``.
    """
    try:
        yield
    except BrokenPipeError:  # no file's fault: nobody reads this command's output any more
        raise
    except OSError as error:
        raise UserError(f"{what} ({reason_of(error)})" + (f"; {fix}" if fix else "")) from error


def reason_of(error: OSError) -> str:
    """An ``OSError`` in a few words: its reason, and its path where it has one."""
    reason = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    path = error.filename
    return f"{reason}: {os.fsdecode(path)}" if isinstance(path, str | bytes) else reason


def nearest(word: str, known: Iterable[str]) -> str:
    """What to say of a word that is none of those known: the one that was meant, or all of them."""
    words = list(known)
    # Of two or three all are said: "gpu" looks like "cpu" and means "cuda".
    near = difflib.get_close_matches(word, words, n=1) if len(words) > 3 else []
    return f"did you mean {near[0]}?" if near else f"expected one of {', '.join(words)}"
