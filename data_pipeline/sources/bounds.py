"""How much a file may unpack to: hostile files end in one line, not in the machine's memory."""

from __future__ import annotations

from data_pipeline.errors import UserError

SMALL = 256 << 20
"""Bytes that are unpacked into memory without asking."""
RATIO = 200
"""Above `SMALL`, how many times its packed size a file may unpack to. Deflate reaches 1,032."""


def refuse_bomb(where: str, packed: int, unpacked: int) -> None:
    """Refuse what unpacks to far more than its size, before it is unpacked.

    Raises
    ------
    UserError
        If `unpacked` bytes are more than `SMALL` and more than `RATIO` times `packed`.
    """
    if unpacked > SMALL and unpacked > RATIO * packed:
        raise UserError(
            f"{where}: {packed / 1e6:.1f} MB that unpack to {unpacked / 1e6:,.0f} MB look like a "
            "decompression bomb; if they are what you want, unpack the file and give the result"
        )
