"""Charts of several trainings: one figure against another, each point with its intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evaluation.figures.style import Theme, new_figure, themed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Point:
    """Means in both directions, with half the width of their intervals (0: none)."""

    name: str
    x: float
    y: float
    x_half: float = 0.0
    y_half: float = 0.0


@dataclass(frozen=True)
class Trend:
    """One panel."""

    x_label: str
    y_label: str
    points: Sequence[Point]
    levels: Sequence[tuple[str, float]] = ()
    """Named values to compare, as horizontal lines."""
    joined: bool = True
    """Whether a line joins the points, by x."""
    logarithmic: bool = False
    """The x axis."""


def trends(panels: Sequence[Trend], *, theme: Theme) -> Figure:
    """Draw the panels in one row."""
    with themed(theme):
        figure = new_figure(4.6 * len(panels), 3.5)
        grid = figure.subplots(1, len(panels), squeeze=False)[0]
        for axes, panel in zip(grid, panels, strict=True):
            _draw(axes, panel, theme)
    return figure


def _draw(axes: Axes, panel: Trend, theme: Theme) -> None:
    points = sorted(panel.points, key=lambda point: point.x)
    xs, ys = [point.x for point in points], [point.y for point in points]
    color = theme.methods["vae"]
    if panel.joined:
        axes.plot(xs, ys, color=color, linewidth=1.2)
    axes.errorbar(
        xs, ys,
        yerr=[point.y_half for point in points], xerr=[point.x_half for point in points],
        fmt="o", markersize=4.5, color=color, elinewidth=1.2, capsize=2,
    )  # fmt: skip
    if panel.logarithmic:
        axes.set_xscale("log")
        axes.minorticks_off()
        shown = sorted(set(xs))
        axes.set_xticks(shown, [f"{x:,.0f}" for x in shown])
    axes.margins(x=0.16, y=0.15)
    leftwards = panel.joined and ys[-1] > ys[0]  # away from the line
    for point in points:
        axes.annotate(
            point.name, (point.x, point.y), xytext=(-6 if leftwards else 6, 6),
            textcoords="offset points", fontsize=8, ha="right" if leftwards else "left",
        )  # fmt: skip
    for name, value in panel.levels:
        axes.axhline(value, color=theme.methods.get(name.lower(), theme.faint), linestyle="--")
        axes.annotate(
            name, (1, value), xycoords=("axes fraction", "data"), xytext=(-2, 3),
            textcoords="offset points", fontsize=8, ha="right",
        )  # fmt: skip
    axes.grid(axis="y")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
