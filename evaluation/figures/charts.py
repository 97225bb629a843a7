"""Charts: accuracy against neighbours, scores with intervals, confusion, training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evaluation.figures.style import Theme, new_figure, themed, wrap

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_STROKES: Mapping[str, Any] = {
    "val": {"linewidth": 1.8, "zorder": 3},
    "train": {"linewidth": 0.9, "alpha": 0.45},
}


@dataclass(frozen=True)
class Curve:
    """Accuracy over numbers of neighbours at one number of samples a class."""

    samples: int
    k: np.ndarray
    value: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True)
class Score:
    """One bar of a leaderboard: a value with its 95 % interval."""

    name: str
    value: float
    low: float
    high: float
    method: str = ""


@dataclass(frozen=True)
class Series:
    """One run's records of one split, by figure."""

    run: str
    split: str
    epoch: np.ndarray
    values: Mapping[str, np.ndarray] = field(default_factory=dict)


def accuracy_against_k(
    methods: Sequence[tuple[str, Sequence[Curve]]], *, theme: Theme, y_label: str
) -> Figure:
    """Draw one panel a method: accuracy against k, a line for each number of samples a class."""
    counts = sorted({curve.samples for _, curves in methods for curve in curves})
    colors = dict(zip(counts, theme.ordered_colors(len(counts)), strict=True))
    every_k = sorted({int(k) for _, curves in methods for curve in curves for k in curve.k})
    # Up to five panels in one row; else the rows that leave the fewest places empty.
    columns = len(methods)
    if columns > 5:
        columns = min((5, 4, 3), key=lambda width: -len(methods) % width)
    rows = -(-len(methods) // columns)
    with themed(theme):
        figure = new_figure(max(12.3 / max(columns, 4) * columns, 4.4), 3.0 * rows + 0.7)
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        panels = list(grid.flat)
        for axes, (name, curves) in zip(panels, methods, strict=False):
            for curve in sorted(curves, key=lambda curve: curve.samples):
                color = colors[curve.samples]
                axes.plot(
                    curve.k, curve.value, color=color, marker="o", markersize=3.6, linewidth=1.6
                )
                if np.any(curve.high > curve.low):
                    axes.fill_between(
                        curve.k, curve.low, curve.high, color=color, alpha=0.18, linewidth=0
                    )
            axes.set_title(name if len(name) <= 26 else name.replace(" (", "\n(", 1))
            axes.set_xscale("log")
            axes.set_xticks(every_k, [str(k) for k in every_k])
            axes.minorticks_off()
            axes.grid(axis="y")
        for axes in panels[len(methods) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel(y_label)
        for axes in panels[: len(methods)]:
            axes.set_xlabel("neighbours k")
            axes.tick_params(labelbottom=True)
        _line_legend(figure, colors, "samples a class")
    return figure


def leaderboard(scores: Sequence[Score], *, x_label: str, theme: Theme) -> Figure:
    """Draw values with their 95 % intervals, the best on top."""
    ordered = sorted(scores, key=lambda score: score.value)
    with themed(theme):
        figure = new_figure(7.2, 0.9 + 0.3 * len(ordered))
        axes = figure.subplots()
        for place, score in enumerate(ordered):
            color = theme.methods.get(score.method, theme.ink)
            axes.plot([score.low, score.high], [place, place], color=color, linewidth=2.2)
            axes.plot([score.value], [place], marker="o", markersize=5.5, color=color)
            axes.annotate(
                f"{score.value:.4f}", (score.high, place), xytext=(6, 0),
                textcoords="offset points", va="center", fontsize=8,
            )  # fmt: skip
        axes.set_yticks(range(len(ordered)), wrap([s.name for s in ordered], 48))
        axes.set_ylim(-0.6, len(ordered) - 0.4)
        axes.margins(x=0.12)
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x")
        axes.set_xlabel(x_label)
    return figure


def latents(runs: Sequence[tuple[str, np.ndarray]], *, theme: Theme) -> Figure:
    """Draw KL by latent, largest first, a line a run."""
    colors = theme.run_colors(len(runs))
    with themed(theme):
        figure = new_figure(7.2, 3.0)
        axes = figure.subplots()
        for (name, values), color in zip(runs, colors, strict=True):
            place = np.arange(1, len(values) + 1)
            axes.plot(
                place, values, marker="o", markersize=4.5, linewidth=1.5, color=color, label=name
            )
        axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", integer=True)
        axes.set_xlabel("latent, by rank")
        axes.set_ylabel("KL (nats an image)")
        axes.grid(axis="y")
        axes.legend()
    return figure


def confusion_matrices(
    matrices: Sequence[tuple[str, np.ndarray]], classes: Sequence[str], *, theme: Theme
) -> Figure:
    """Draw (true, predicted) counts as percentages of the true class, one panel a method."""
    names = wrap(classes, 11)
    columns = min(len(matrices), 3)
    rows = -(-len(matrices) // columns)
    side = float(np.clip(0.37 * len(names), 2.4, 6))
    with themed(theme):
        figure = new_figure((side + 0.25) * columns + 1.5, (side + 1.15) * rows)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        panels = list(grid.flat)
        picture = None
        for axes, (title, counts) in zip(panels, matrices, strict=False):
            total = counts.sum(axis=1, keepdims=True)
            share = 100 * counts / np.maximum(total, 1)
            picture = axes.imshow(share, cmap=theme.heat, vmin=0, vmax=100)
            axes.set_title(title)
            turned: Any = {"rotation": 45, "ha": "right"} if max(map(len, names)) > 3 else {}
            axes.set_xticks(range(len(names)), names, fontsize=7.5, **turned)
            axes.set_yticks(range(len(names)), names, fontsize=7.5)
            axes.tick_params(length=0)
            axes.set_xlabel("predicted class")
            for spine in axes.spines.values():
                spine.set_visible(False)
            if len(names) <= 12:
                _write_shares(axes, share, theme)
        for axes in panels[len(matrices) :]:
            axes.set_visible(False)
        for axes in grid[:, 0]:
            axes.set_ylabel("true class")
        if picture is not None:
            bar = figure.colorbar(
                picture, ax=panels[: len(matrices)], fraction=0.03, pad=0.01, shrink=0.8
            )
            bar.set_label("% of the true class")
            bar.outline.set_visible(False)
    return figure


def training_curves(
    series: Sequence[Series], quantities: Sequence[tuple[str, str]], *, theme: Theme
) -> Figure:
    """Draw each quantity against epochs: validation strong, training pale, a colour a run."""
    runs = list(dict.fromkeys(one.run for one in series))
    colors = dict(zip(runs, theme.run_colors(len(runs)), strict=True))
    columns = min(len(quantities), 4)
    rows = -(-len(quantities) // columns)
    with themed(theme):
        figure = new_figure(max(3.1 * columns, 4.4), 2.8 * rows + 0.6)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, (key, label) in zip(panels, quantities, strict=False):
            validated = []
            for one in series:
                if key not in one.values:
                    continue
                kept = np.isfinite(one.values[key])
                values = one.values[key][kept]
                axes.plot(
                    one.epoch[kept], values, color=colors[one.run], **_STROKES[one.split],
                )  # fmt: skip
                validated.append(values[len(values) // 20 :])
            _ignore_the_start(axes, validated)
            axes.set_title(label.split(" (")[0])
            axes.set_ylabel(label)
            axes.set_xlabel("epoch")
            axes.grid(axis="y")
        for axes in panels[len(quantities) :]:
            axes.set_visible(False)
        _training_legend(figure, colors, {one.split for one in series}, theme)
    return figure


def _ignore_the_start(axes: Axes, values: Sequence[np.ndarray]) -> None:
    """Scale the axis to what comes after the first twentieth, where losses fall steeply."""
    kept = np.concatenate(values) if values else np.zeros(0)
    if len(kept) > 3 and np.ptp(kept) > 0:
        margin = 0.05 * float(np.ptp(kept))
        axes.set_ylim(float(kept.min()) - margin, float(kept.max()) + margin)


def _write_shares(axes: Axes, share: np.ndarray, theme: Theme) -> None:
    from matplotlib import colormaps

    shades = colormaps[theme.heat]
    for row, column in np.argwhere(share >= 0.5):
        value = share[row, column]
        red, green, blue, _ = shades(value / 100)
        bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
        axes.text(
            column, row, f"{np.floor(value + 0.5):.0f}", ha="center", va="center", fontsize=6.8,
            color="#16191e" if bright else "#ffffff",
        )  # fmt: skip


def _line_legend(figure: Figure, colors: Mapping[int, Any], title: str) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, marker="o", markersize=3.6, label=f"{name:,}")
        for name, color in colors.items()
    ]
    figure.legend(
        handles=handles, title=title, loc="outside lower center", ncols=max(len(handles), 1)
    )


def _training_legend(
    figure: Figure, colors: Mapping[str, str], splits: set[str], theme: Theme
) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=color, label=name)
        for name, color in zip(wrap(list(colors), 40), colors.values(), strict=True)
    ]
    handles += [
        Line2D([], [], color=theme.faint, label=label, **_STROKES[split])
        for split, label in (("val", "validation"), ("train", "training"))
        if split in splits
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 4))
