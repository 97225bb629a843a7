"""``report.html``: one file that holds an evaluation, and needs no network."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from evaluation.figures import DARK, LIGHT, Picture, pictures, pixels
from evaluation.files import write_text
from evaluation.report.explorer import Explorer, explorer
from evaluation.report.opening import few_images, opening
from evaluation.report.tables import (
    TEST_COLUMNS,
    headline,
    made,
    reconstruction_table,
    record_table,
    run_table,
    score_columns,
    seed_table,
    stage_table,
    structure_table,
)
from evaluation.results.blanks import blanks, not_made
from evaluation.results.folder import Folder

__all__ = ["MOST_BYTES", "write_report"]

MOST_BYTES = 10_000_000  # a report above this is not written
_QUALITIES = (85, 60, 30)  # of an inlined picture, as WebP: the first that fits
_MOST_PICTURE_BYTES = 350_000


@dataclass(frozen=True)
class _Figure:
    name: str
    title: str
    caption: str
    light: str
    dark: str
    width: int
    height: int


def write_report(out_dir: Path) -> Path:
    """Write ``report.html`` into an evaluation folder.

    Parameters
    ----------
    out_dir
        A folder that holds ``results.json``; ``artifacts.npz`` gives the explorer and the figures.

    Raises
    ------
    ValueError
        If the folder holds no results, or so much that the file would pass `MOST_BYTES`.
    """
    folder = Folder(Path(out_dir))
    results = folder.results
    shown, test_images = explorer(folder), results.counts.get("test", 0)
    page = _environment().get_template("page.html.j2")
    html = page.render(
        results=results,
        opening=opening(folder.board, test_images=test_images, labels=folder.test_labels),
        warning=few_images(test_images),
        method_colors={theme.name: theme.methods for theme in (LIGHT, DARK)},
        headline=headline(folder),
        blanks=not_made(results)
        + blanks(
            folder.board, [*TEST_COLUMNS, *(name for name, *_ in score_columns(folder.board))]
        ),
        structure=structure_table(folder),
        reconstruction=reconstruction_table(folder),
        figures=list(_figures(folder)),
        runs=run_table(results),
        seeds=seed_table(results),
        stages=stage_table(results),
        records=record_table(results),
        made=made(results),
        explorer=shown,
        bokeh=_bokeh(shown),
        css=_text("page.css"),
        js=_text("page.js"),
    )
    size = len(html.encode("utf-8", "backslashreplace"))
    if size > MOST_BYTES:
        raise UserError(
            f"{out_dir}: the report would take {size / 1e6:.1f} MB, more than "
            f"{MOST_BYTES / 1e6:.0f} MB; evaluate fewer runs at a time"
        )
    path = Path(out_dir) / "report.html"
    write_text(path, html)
    return path


def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("evaluation.report", "template"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _text(name: str) -> Any:
    """Our own style or script, to stand in the page as it is."""
    from importlib.resources import files

    from markupsafe import Markup

    return Markup(files("evaluation.report").joinpath("template", name).read_text("utf-8"))


def _bokeh(shown: Explorer | None) -> list[Any]:
    """Bokeh's scripts, whole; only the part that draws plots."""
    if shown is None:
        return []
    from bokeh.resources import Resources
    from markupsafe import Markup

    return [Markup(part) for part in Resources(mode="inline", components=["bokeh"]).js_raw]


def _figures(folder: Folder) -> Iterator[_Figure]:
    for picture in pictures(folder):
        light = _light(folder, picture)
        dark = pixels(picture.draw(DARK))
        height, width = light.shape[:2]
        yield _Figure(
            picture.name,
            picture.title,
            picture.caption,
            _inline(light),
            _inline(dark),
            width,
            height,
        )


def _light(folder: Folder, picture: Picture) -> np.ndarray:
    """The picture as `write_figures` left it, or drawn now."""
    from PIL import Image

    path = folder.path / "figures" / f"{picture.name}.png"
    if not path.is_file():
        return pixels(picture.draw(LIGHT))
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: damaged picture ({error}); delete it") from error


def _inline(picture: np.ndarray) -> str:
    """Return a picture as a data URL."""
    from PIL import Image

    image = Image.fromarray(picture)
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        image.save(buffer, format="WEBP", quality=quality, method=2)
        if len(buffer.getvalue()) <= _MOST_PICTURE_BYTES:
            break
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
