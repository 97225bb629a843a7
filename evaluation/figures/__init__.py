"""Pictures of an evaluation, from the arrays that lie in its folder."""

from __future__ import annotations

from pathlib import Path

from evaluation.figures.pictures import pictures
from evaluation.figures.style import DARK, LIGHT, Picture, Theme, pixels, png, small_png
from evaluation.files import write_bytes
from evaluation.results.folder import Folder

__all__ = [
    "DARK",
    "LIGHT",
    "Picture",
    "Theme",
    "pictures",
    "pixels",
    "png",
    "small_png",
    "write_figures",
]


def write_figures(out_dir: Path) -> list[Path]:
    """Write ``figures/*.png`` into an evaluation folder.

    Parameters
    ----------
    out_dir
        A folder that holds ``results.json`` and, for most pictures, ``artifacts.npz``.

    Returns
    -------
    list of Path
        The pictures, in the order of the report. A picture whose arrays are missing is not drawn.
    """
    target = Path(out_dir) / "figures"
    written = []
    for picture in pictures(Folder(Path(out_dir))):
        path = target / f"{picture.name}.png"
        write_bytes(path, png(picture.draw(LIGHT)))
        written.append(path)
    return written
