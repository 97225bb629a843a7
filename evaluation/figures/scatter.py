"""Two-dimensional embeddings by class, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.errors import UserError
from evaluation.figures.style import Theme, new_figure, themed, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Panel:
    """One embedding: (n, 2) points in the order of the labels."""

    title: str
    points: np.ndarray
    x_label: str = "component 1"
    y_label: str = "component 2"


@dataclass
class _Place:
    """A class's name in a panel; `half` is half its width, in data units as x and y."""

    name: str
    x: float
    y: float
    half: float


def scatter_panels(
    panels: Sequence[Panel], labels: np.ndarray, classes: Sequence[str], *, theme: Theme
) -> Figure:
    """Draw the panels in one row, of equal size, with one legend below.

    Each panel's two axes have the same scale. The view holds 99.5 % of the points on each axis,
    so that a few outliers do not shrink the rest.
    """
    for panel in panels:
        if panel.points.shape != (len(labels), 2):
            raise UserError(
                f"{panel.title}: points of shape {(len(labels), 2)} are needed, "
                f"got {panel.points.shape}"
            )
    order = np.random.default_rng(0).permutation(len(labels))
    colors = np.asarray(theme.class_colors(max(len(classes), 1)))
    point_colors = colors[labels[order] % len(colors)]
    size = float(np.clip(28_000 / max(len(labels), 1), 1.5, 14))
    with themed(theme):
        figure = new_figure(4.1 * len(panels), 4.6)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(grid, panels, strict=True):
            points = panel.points[order]
            axes.scatter(
                points[:, 0], points[:, 1], s=size, c=point_colors, alpha=0.75, linewidths=0
            )
            _square_view(axes, panel.points)
            axes.set_title(panel.title)
            axes.set_xlabel(panel.x_label)
            axes.set_ylabel(panel.y_label)
            axes.tick_params(length=2.5)
            for place in _label_places(axes, panel.points, labels, classes):
                _name(axes, place, theme)
        _legend(figure, classes, theme)
    return figure


def _square_view(axes: Axes, points: np.ndarray) -> None:
    low, high = np.percentile(points, [0.25, 99.75], axis=0)
    half = float(max((high - low).max() / 2, 1e-6)) * 1.06
    middle = (low + high) / 2
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_box_aspect(1)
    axes.locator_params(nbins=6)


def _label_places(
    axes: Axes, points: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> list[_Place]:
    """Put each class's name where it is densest, pushed apart where names would touch."""
    if not 2 <= len(classes) <= 12:
        return []
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    width, height = right - left, top - bottom
    names = wrap(classes)
    places: list[_Place] = []
    for code, name in enumerate(names):
        own = points[labels == code]
        if len(own):
            x, y = _densest(own, (left, right), (bottom, top))
            half = 0.0115 * len(name) * width
            places.append(_Place(name, min(max(x, left + half), right - half), y, half))
    places.sort(key=lambda place: place.y)
    apart = 0.042 * height
    for _ in range(60):
        for i, lower in enumerate(places):
            for upper in places[i + 1 :]:
                touching = abs(lower.x - upper.x) < lower.half + upper.half
                missing = apart - (upper.y - lower.y)
                if touching and missing > 0:
                    lower.y -= missing / 2
                    upper.y += missing / 2
    for place in places:
        place.y = min(max(place.y, bottom + apart), top - apart)
    return places


def _densest(
    points: np.ndarray, x_range: tuple[float, float], y_range: tuple[float, float]
) -> tuple[float, float]:
    """The mean of the points in the fullest three by three cells of a grid over the view."""
    bins = 24
    counts, xs, ys = np.histogram2d(
        points[:, 0], points[:, 1], bins=bins, range=[list(x_range), list(y_range)]
    )
    if not counts.any():
        x, y = np.median(points, axis=0)
        return float(x), float(y)
    padded = np.pad(counts, 1)
    blocks = sum(padded[i : i + bins, j : j + bins] for i in range(3) for j in range(3))
    column, row = np.unravel_index(int(np.argmax(blocks)), counts.shape)
    inside = (np.abs(points[:, 0] - (xs[column] + xs[column + 1]) / 2) <= 1.5 * (xs[1] - xs[0])) & (
        np.abs(points[:, 1] - (ys[row] + ys[row + 1]) / 2) <= 1.5 * (ys[1] - ys[0])
    )
    x, y = points[inside].mean(axis=0)
    return float(x), float(y)


def _name(axes: Axes, place: _Place, theme: Theme) -> None:
    from matplotlib.patheffects import withStroke

    text = axes.text(
        place.x, place.y, place.name, ha="center", va="center", fontsize=7.2, fontweight="bold"
    )
    text.set_path_effects([withStroke(linewidth=2.4, foreground=theme.ground, alpha=0.9)])


def _legend(figure: Figure, classes: Sequence[str], theme: Theme) -> None:
    from matplotlib.lines import Line2D

    if not 1 <= len(classes) <= 20:
        return
    names = wrap(classes)
    inches = 0.4 + 0.072 * max(map(len, names))  # that a column takes
    columns = int(np.clip(figure.get_figwidth() / inches, 1, 10))
    handles = [
        Line2D([], [], linestyle="", marker="o", markersize=5.5, color=color, label=name)
        for name, color in zip(names, theme.class_colors(len(classes)), strict=True)
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(len(handles), columns),
        handletextpad=0.1,
        columnspacing=1.1,
    )
