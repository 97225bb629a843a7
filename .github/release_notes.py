"""``release_notes.py vX.Y.Z``: print that version's section of CHANGELOG.md, or fail."""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def notes(tag: str) -> str:
    """The section of a tag; ends the program where tag, version and CHANGELOG.md disagree."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    if tag != f"v{version}":
        sys.exit(f"tag {tag}: pyproject.toml says version {version}; the tag must be v{version}")
    text = (ROOT / "CHANGELOG.md").read_text()
    found = re.search(rf"^## {re.escape(version)}\b.*?\n(.*?)(?=^## |\Z)", text, re.M | re.S)
    if found is None or not found[1].strip():
        sys.exit(f"tag {tag}: CHANGELOG.md has no section '## {version}'")
    return found[1].strip()


if __name__ == "__main__":
    print(notes(sys.argv[1]))
