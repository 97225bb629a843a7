"""Pictures of an evaluation, from the arrays that lie in its folder."""

from __future__ import annotations

from pathlib import Path

from evaluation.figures.pictures import pictures
from evaluation.figures.style import DARK, LIGHT, Picture, Theme, pixels, png
from evaluation.results.folder import Folder

__all__ = ["DARK", "LIGHT", "Picture", "Theme", "pictures", "pixels", "png", "write_figures"]


def write_figures(out_dir: Path) -> list[Path]:
    """Write ``figures/*.png`` into an evaluation folder.

    Parameters
    ----------
    out_dir
        A folder that holds ``results.json`` and, for most pictures, ``artifacts.npz``.

    Returns
    -------
    list of Path
        The pictures, in the order of the report. A picture whose arrays are missing is left out.
    """
    target = Path(out_dir) / "figures"
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for picture in pictures(Folder(Path(out_dir))):
        path = target / f"{picture.name}.png"
        beside = path.with_name(f".{path.name}")
        beside.write_bytes(png(picture.draw(LIGHT)))
        beside.replace(path)
        written.append(path)
    return written
