"""The interactive explorer: two-dimensional maps of the same images, linked."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from evaluation.figures import DARK, LIGHT
from evaluation.figures.style import to_display
from evaluation.results.folder import Folder

PANELS = 3
_LARGEST_CELL = 48  # pixels; larger images are made smaller for the page
_SPRITE_COLUMNS = 64
_MOST_SPRITE_BYTES = 3_000_000


@dataclass(frozen=True)
class Explorer:
    """What the page needs: bokeh's script, the panels' element ids, data for our script."""

    script: Any
    panels: list[str]
    data: dict[str, Any]
    sprite: str


def explorer(folder: Folder) -> Explorer | None:
    """Return the explorer of the folder's sample; None where there are no maps."""
    maps = folder.maps()
    images = folder.artifacts.get("sample_images")
    if not maps or images is None:
        return None
    names = list(maps)
    first = [name for name in folder.compared() if name in maps]
    first += [name for name in names if name not in first]
    labels = folder.artifacts.get("sample_labels", np.full(len(images), -1))
    position = folder.artifacts.get("sample_position", np.arange(len(images)))
    sheet, columns, cell = sprite(images)
    predicted = folder.named("sample_predicted")
    classes = folder.results.classes
    known = [code for code in range(len(classes)) if np.any(labels == code)]
    data = {
        "classes": classes,
        "shown": known,
        "colors": {theme.name: theme.class_colors(max(len(classes), 1)) for theme in (LIGHT, DARK)},
        "errors": {
            theme.name: [theme.grid if theme is DARK else "#b9bec7", theme.classes[2], theme.faint]
            for theme in (LIGHT, DARK)
        },
        "maps": [
            {"id": name, "title": folder.embedding(name).title, "bounds": _bounds(maps[name])}
            for name in names
        ],
        "first": [names.index(name) for name in first[:PANELS]],
        "labels": labels.tolist(),
        "position": position.tolist(),
        "predicted": {
            str(names.index(name)): codes.tolist()
            for name, codes in predicted.items()
            if name in names
        },
        "columns": columns,
        "cell": cell,
    }
    script, panels = _plots(maps, labels, data)
    return Explorer(script, panels, data, sheet)


def sprite(images: np.ndarray) -> tuple[str, int, list[int]]:
    """Put all images on one sheet.

    Returns
    -------
    url, columns, cell
        The sheet as a data URL, images in a row, and [width, height] of one.
    """
    from PIL import Image

    shown = (to_display(images) * 255).round().astype(np.uint8)
    height, width = shown.shape[1:3]
    if max(height, width) > _LARGEST_CELL:
        scale = _LARGEST_CELL / max(height, width)
        width, height = max(round(width * scale), 1), max(round(height * scale), 1)
        small = [Image.fromarray(one).resize((width, height)) for one in shown]
        shown = np.stack([np.asarray(one) for one in small])
    columns = min(_SPRITE_COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    room = np.zeros((rows * columns - len(shown), *shown.shape[1:]), dtype=np.uint8)
    grid = np.concatenate([shown, room]).reshape(rows, columns, *shown.shape[1:])
    sheet = np.swapaxes(grid, 1, 2).reshape(rows * height, columns * width, *shown.shape[3:])
    picture = Image.fromarray(np.ascontiguousarray(sheet))
    kind, packed = "png", _packed(picture, format="PNG", optimize=True)
    for quality in (85, 60, 30):  # photographs do not fit without loss
        if len(packed) <= _MOST_SPRITE_BYTES:
            break
        kind, packed = "webp", _packed(picture, format="WEBP", quality=quality, method=2)
    url = f"data:image/{kind};base64,{base64.b64encode(packed).decode()}"
    return url, columns, [width, height]


def _packed(picture: Any, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, **settings)
    return buffer.getvalue()


def _bounds(points: np.ndarray) -> list[float]:
    """A square that holds all points: left, right, bottom, top."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = float(max((high - low).max() / 2, 1e-6)) * 1.05
    x, y = ((low + high) / 2).tolist()
    return [x - half, x + half, y - half, y + half]


def _plots(
    maps: dict[str, np.ndarray], labels: np.ndarray, data: dict[str, Any]
) -> tuple[Any, list[str]]:
    """One bokeh plot a panel; all share one source, so that hover and selection are linked."""
    from bokeh.embed import components
    from bokeh.models import (
        BooleanFilter,
        BoxSelectTool,
        CDSView,
        ColumnDataSource,
        CustomJS,
        HoverTool,
        LassoSelectTool,
        LinearColorMapper,
        PanTool,
        Range1d,
        ResetTool,
        Scatter,
        TapTool,
        WheelZoomTool,
    )
    from bokeh.plotting import figure
    from markupsafe import Markup

    columns: dict[str, Any] = {"label": labels.astype(np.int32)}
    for panel in range(len(data["first"])):  # filled by the page's script
        columns[f"error{panel}"] = np.zeros(len(labels), np.int32)
    for place, points in enumerate(maps.values()):
        columns[f"x{place}"] = points[:, 0].astype(np.float32)
        columns[f"y{place}"] = points[:, 1].astype(np.float32)
    source = ColumnDataSource(columns, name="source")
    source.selected.js_on_change("indices", CustomJS(code=_tell("select", "cb_obj.indices")))
    colors = data["colors"]["light"]
    mapper = LinearColorMapper(
        palette=colors, low=-0.5, high=len(colors) - 0.5, low_color="#808080", name="mapper"
    )
    view = CDSView(filter=BooleanFilter(name="filter"))
    color: Any = {"field": "label", "transform": mapper}
    plots = []
    for panel, place in enumerate(data["first"]):
        left, right, bottom, top = data["maps"][place]["bounds"]
        hover = HoverTool(
            tooltips=None,
            callback=CustomJS(code=_tell("hover", f"cb_data.index.indices, {panel}")),
        )
        box = BoxSelectTool()
        tools = [box, LassoSelectTool(), PanTool(), WheelZoomTool(), TapTool(), ResetTool(), hover]
        plot = figure(
            name=f"panel-{panel}",
            x_range=Range1d(left, right, reset_start=left, reset_end=right),
            y_range=Range1d(bottom, top, reset_start=bottom, reset_end=top),
            tools=tools,
            active_drag=box,
            active_scroll=None,
            toolbar_location="above",
            sizing_mode="stretch_width",
            aspect_ratio=1,
            min_border=4,
            background_fill_color=None,
            border_fill_color=None,
        )
        plot.toolbar.logo = None
        plot.axis.visible = False
        plot.grid.visible = False
        at: Any = {"x": f"x{place}", "y": f"y{place}", "fill_color": color, "line_color": None}
        plot.add_glyph(
            source,
            Scatter(**at, size=5, fill_alpha=0.8),
            view=view,
            name=f"points-{panel}",
            nonselection_glyph=Scatter(**at, size=4, fill_alpha=0.08),
            selection_glyph=Scatter(**at, size=6, fill_alpha=1),
            hover_glyph=Scatter(**{**at, "line_color": "#808080"}, size=13, line_width=2),
        )
        plots.append(plot)
    script, roots = components(plots, wrap_script=False, wrap_plot_info=False)
    return Markup(script), [root.elementid for root in roots]


def _tell(event: str, arguments: str) -> str:
    return f"window.explorer?.{event}({arguments});"
