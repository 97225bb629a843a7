"""Pictures made of images: reconstructions, samples, traversals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from evaluation.figures.style import Theme, bare, new_figure, themed, tile, to_display

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PIXELS = 8.4  # inches that a full row of images takes


def reconstructions(
    originals: np.ndarray,
    rows: Sequence[tuple[str, np.ndarray]],
    *,
    theme: Theme,
    columns: int = 10,
) -> Figure:
    """Draw originals with each named reconstruction under them.

    Parameters
    ----------
    originals
        (n, C, H, W) images.
    rows
        Pairs of a name and (n, C, H, W) images in the same order.
    columns
        Images in a row; further images go into further bands.
    """
    columns = min(columns, len(originals))
    bands = len(originals) // columns
    named = [("original", originals), *rows]
    height = originals.shape[2]
    names = [name for name, _ in named]
    with themed(theme):
        strips = []
        for band in range(bands):
            part = slice(band * columns, (band + 1) * columns)
            shown = np.concatenate([to_display(images[part]) for _, images in named])
            strips.append(tile(shown, columns, fill=_fill(theme)))
        figure, grid = _sheets(strips, left=_room(names))
        for axes in grid:
            axes.set_yticks([(height + 1) * (i + 0.5) - 1 for i in range(len(named))])
            axes.set_yticklabels(names, fontsize=9)
    return figure


def samples(images: np.ndarray, *, theme: Theme, columns: int = 10) -> Figure:
    """Draw images decoded from the prior in rows."""
    columns = min(columns, len(images))
    images = images[: len(images) // columns * columns]
    sheet = tile(to_display(images), columns, fill=_fill(theme))
    with themed(theme):
        figure, _ = _sheets([sheet])
    return figure


def traversals(
    images: np.ndarray, values: np.ndarray, names: Sequence[str], *, theme: Theme
) -> Figure:
    """Draw one row a latent: the image as that latent alone walks through `values`.

    Parameters
    ----------
    images
        (latents, steps, C, H, W).
    values
        (steps,) what the latent is set to.
    names
        One a latent.
    """
    latents, steps = images.shape[:2]
    height, width = images.shape[3:]
    flat = to_display(images.reshape(latents * steps, *images.shape[2:]))
    sheet = tile(flat, steps, fill=_fill(theme))
    with themed(theme):
        figure, (axes,) = _sheets([sheet], left=_room(names), below=0.5)
        axes.set_yticks([(height + 1) * (i + 0.5) - 1 for i in range(latents)])
        axes.set_yticklabels(names, fontsize=9)
        axes.set_xticks([(width + 1) * (i + 0.5) - 1 for i in range(steps)])
        axes.set_xticklabels(
            [f"{value:+.3g}".replace("-", "−") if value else "0" for value in values]
        )
        axes.set_xlabel("value of the latent (standard deviations of the aggregate posterior)")
    return figure


def interpolations(images: np.ndarray, *, theme: Theme) -> Figure:
    """Draw (rows, steps, C, H, W) images, one walk a row, with the ends named."""
    rows, steps = images.shape[:2]
    width = images.shape[4]
    flat = to_display(images.reshape(rows * steps, *images.shape[2:]))
    sheet = tile(flat, steps, fill=_fill(theme))
    with themed(theme):
        figure, (axes,) = _sheets([sheet], below=0.5)
        axes.set_xticks([(width + 1) * (i + 0.5) - 1 for i in range(steps)])
        axes.set_xticklabels([f"{share:.0%}" for share in np.linspace(0, 1, steps)])
        axes.set_xlabel("way from the first to the second image")
    return figure


def _fill(theme: Theme) -> float:
    return int(theme.ground[1:3], 16) / 255


def _room(names: Sequence[str]) -> float:
    """Inches that the longest of these names takes left of the images."""
    return 0.15 + 0.078 * max(len(name) for name in names)


def labelled(rows: Sequence[tuple[str, np.ndarray]], *, theme: Theme) -> Figure:
    """Draw one row of (n, C, H, W) images for each name, all of the same n and size."""
    names = [name for name, _ in rows]
    height = rows[0][1].shape[2]
    shown = to_display(np.concatenate([images for _, images in rows]))
    with themed(theme):
        sheet = tile(shown, len(rows[0][1]), fill=_fill(theme))
        figure, (axes,) = _sheets([sheet], left=_room(names))
        axes.set_yticks([(height + 1) * (i + 0.5) - 1 for i in range(len(rows))])
        axes.set_yticklabels(names, fontsize=9)
    return figure


def _sheets(
    sheets: Sequence[np.ndarray], *, left: float = 0.05, below: float = 0.05, gap: float = 0.14
) -> tuple[Figure, list[Axes]]:
    """Stack sheets of equal width at one scale, with this room in inches around them."""
    heights = [_PIXELS * sheet.shape[0] / sheet.shape[1] for sheet in sheets]
    width = left + _PIXELS + 0.05
    total = below + sum(heights) + gap * (len(sheets) - 1) + 0.05
    figure = new_figure(width, total, fit=False)
    bottom, grid = total - 0.05, []
    for sheet, height in zip(sheets, heights, strict=True):
        bottom -= height
        place = (left / width, bottom / total, _PIXELS / width, height / total)
        axes = figure.add_axes(place)
        bare(axes)
        axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest", aspect="auto")
        axes.tick_params(length=0)
        grid.append(axes)
        bottom -= gap
    return figure, grid
