"""Make the README's pictures from an evaluation folder: python -m benchmarks.pictures eval/fmnist"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from evaluation.figures import LIGHT, pictures, pixels
from evaluation.results.folder import Folder

NAMES = ("compare", "reconstructions")
MOST_BYTES = 200_000
IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> int:
    """Write the pictures into docs/images, each below 200 kB."""
    from PIL import Image

    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    for picture in pictures(Folder(Path(sys.argv[1]))):
        if picture.name not in NAMES:
            continue
        figure = picture.draw(LIGHT)
        figure.set_dpi(110)
        image = Image.fromarray(pixels(figure))
        for colors in (256, 128, 64, 48, 32, 24, 16):
            buffer = io.BytesIO()
            packed = image.quantize(colors, dither=Image.Dither.NONE)
            packed.save(buffer, format="PNG", optimize=True)
            if len(buffer.getvalue()) < MOST_BYTES:
                break
        path = IMAGES / f"{picture.name}.png"
        path.write_bytes(buffer.getvalue())
        print(f"{path}: {len(buffer.getvalue()):,} bytes, {colors} colours")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
