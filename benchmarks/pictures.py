"""Make the README's pictures from an evaluation folder: python -m benchmarks.pictures eval/fmnist"""

from __future__ import annotations

import sys
from pathlib import Path

from evaluation.figures import LIGHT, pictures, small_png
from evaluation.results.folder import Folder

NAMES = ("compare", "reconstructions")
MOST_BYTES = 200_000
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> int:
    """Write the pictures into docs/images, each below 200 kB."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    for picture in pictures(Folder(Path(sys.argv[1]))):
        if picture.name not in NAMES:
            continue
        content = small_png(picture.draw(LIGHT), MOST_BYTES)
        path = IMAGES / f"{picture.name}.png"
        path.write_bytes(content)
        print(f"{path}: {len(content):,} bytes")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
