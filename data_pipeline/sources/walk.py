"""Every file below a folder, in an order that does not depend on the machine.

Links to files are followed; links to folders too, once each, where they lead out of the
folder (what lies within is read anyway). What is not read is named with the reason, and a
folder that cannot be listed is an error.
"""

from __future__ import annotations

import os
import stat
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.errors import UserError, reason_of
from data_pipeline.sources.names import shown

SYSTEM = "hidden or system file"
_SYSTEM_NAMES = ("thumbs.db", "desktop.ini", "__macosx")
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


@dataclass
class Walk:
    """A walk over one folder.

    Attributes
    ----------
    root : Path
        Where it begins.
    passed : list of (str, str)
        What was not read: its place below the root, and why.
    """

    root: Path
    passed: list[tuple[str, str]] = field(default_factory=list)
    _followed: dict[tuple[int, int], str] = field(default_factory=dict)

    def entries(self, place: str = "") -> tuple[list[str], list[str]]:
        """Places of the folders and of the files in the folder at `place`, sorted by name.

        Raises
        ------
        UserError
            If the folder cannot be listed.
        """
        folders, files = [], []
        try:
            with os.scandir(self.root / place) as found:
                names = sorted((entry.name for entry in found), key=_order)
        except OSError as error:
            raise UserError(
                f"{shown(str(self.root / place))}: cannot be listed ({reason_of(error)}); make it "
                "readable, or move it away"
            ) from error
        for name in names:
            below = f"{place}/{name}" if place else name
            kind = self._kind(name, below)
            if kind == "folder":
                folders.append(below)
            elif kind == "file":
                files.append(below)
            else:
                self.passed.append((shown(below), kind))
        return folders, files

    def files(self, place: str = "") -> Iterator[str]:
        """Places of all files below the folder at `place`."""
        waiting = [place]
        while waiting:
            folders, files = self.entries(waiting.pop())
            yield from files
            waiting += reversed(folders)

    def _kind(self, name: str, place: str) -> str:
        """``"folder"``, ``"file"``, or why it is not read."""
        if name.startswith(".") or name.lower() in _SYSTEM_NAMES:
            return SYSTEM
        path = self.root / place
        try:
            link = path.is_symlink()
            status = path.stat()
        except OSError as error:
            return "a broken link" if os.path.islink(path) else reason_of(error)
        if stat.S_ISREG(status.st_mode):
            return "file"
        if not stat.S_ISDIR(status.st_mode):
            return _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        if link:
            target, root = os.path.realpath(path), os.path.realpath(self.root)
            if os.path.commonpath([target, root]) == root:
                return "a link to a folder of the same source"
            if os.path.commonpath([target, root]) == target:
                return "a link to a folder above it"
        elif not self._followed:
            return "folder"  # nothing can lead here twice before a link was followed
        first = self._followed.setdefault((status.st_dev, status.st_ino), shown(place))
        return "folder" if first == shown(place) else f"the same folder as {first}"


def _order(name: str) -> tuple[str, str]:
    """Names that differ in the composition of accents only lie beside each other."""
    return unicodedata.normalize("NFC", name), name
