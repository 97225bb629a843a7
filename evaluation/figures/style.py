"""The look that all pictures share: colours, sizes, saving.

Figures are built with matplotlib's object interface: no pyplot, no global state, no display.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 160

# One colour a method, in every figure and table: its place in the colours below.
_METHODS = {
    "pca": 0, "umap": 1, "vae": 2, "raw": 3, "vae_white": 4, "vae_umap": 5, "concat": 6,
    "ensemble": 7,
}  # fmt: skip

# Petroff's ten colours (arXiv 2107.02270), chosen for colour-vision deficiency; the two greys
# are lifted for a dark ground. Classes are also named in the pictures, never by colour alone.
_CLASSES_LIGHT = (
    "#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6",
    "#a96b59", "#e76300", "#b9ac70", "#717581", "#5fc3c8",
)  # fmt: skip
_CLASSES_DARK = (
    "#5aa5ea", "#ffb733", "#ef4a2f", "#b4c4c2", "#b06be0",
    "#c98b78", "#ff8330", "#cfc48c", "#8f95a3", "#92dadd",
)  # fmt: skip


@dataclass(frozen=True)
class Theme:
    """Colours of a picture on a light or a dark ground."""

    name: str
    ground: str
    ink: str
    faint: str
    grid: str
    classes: tuple[str, ...]
    sequence: str
    sequence_range: tuple[float, float]
    heat: str

    def class_colors(self, count: int) -> list[str]:
        """One colour a class; above ten they repeat."""
        return [self.classes[i % len(self.classes)] for i in range(count)]

    @property
    def methods(self) -> dict[str, str]:
        """One colour a method, the same in every figure."""
        return {method: self.classes[place] for method, place in _METHODS.items()}

    def run_colors(self, count: int) -> list[Any]:
        """Colours of VAEs side by side: a VAE's own for the first, then mixed with the ink."""
        from matplotlib.colors import to_rgb

        own, ink = np.array(to_rgb(self.methods["vae"])), np.array(to_rgb(self.ink))
        shares = np.linspace(0, 0.75, max(count, 2))[:count]
        return [tuple(own + (ink - own) * share) for share in shares]

    def ordered_colors(self, count: int) -> list[Any]:
        """Colours of an ordered quantity, from few to many."""
        from matplotlib import colormaps

        low, high = self.sequence_range
        return [colormaps[self.sequence](x) for x in np.linspace(low, high, max(count, 2))[:count]]


@dataclass(frozen=True)
class Picture:
    """A picture that can be drawn in any theme."""

    name: str
    title: str
    caption: str
    draw: Callable[[Theme], Figure]


LIGHT = Theme(
    "light", "#ffffff", "#1c1f24", "#5f6672", "#e3e6ea", _CLASSES_LIGHT, "viridis", (0.88, 0.05),
    "Blues",
)  # fmt: skip
DARK = Theme(
    "dark", "#16191e", "#e8eaed", "#a0a7b2", "#333841", _CLASSES_DARK, "viridis", (0.35, 1.0),
    "cividis",
)  # fmt: skip


@contextmanager
def themed(theme: Theme) -> Iterator[None]:
    """Give the figures made within this theme's colours and text sizes."""
    import matplotlib

    settings: Any = {
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 7,
        "axes.labelsize": 9,
        "axes.labelcolor": theme.ink,
        "axes.edgecolor": theme.faint,
        "axes.facecolor": theme.ground,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "figure.facecolor": theme.ground,
        "savefig.facecolor": theme.ground,
        "grid.color": theme.grid,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "text.color": theme.ink,
        "text.parse_math": False,  # a run may be called $x$
        "xtick.color": theme.faint,
        "ytick.color": theme.faint,
        "xtick.labelcolor": theme.ink,
        "ytick.labelcolor": theme.ink,
        "xtick.labelsize": 8.5,
        "ytick.labelsize": 8.5,
    }
    with matplotlib.rc_context(settings):
        yield


def new_figure(width: float, height: float, *, fit: bool = True) -> Figure:
    """Return an empty figure of this size in inches on the Agg canvas.

    With `fit`, axes are laid out so that nothing overlaps; without, they stay where they are put.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    engine = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09) if fit else None
    figure = Figure(figsize=(width, height), dpi=DPI, layout=engine)
    FigureCanvasAgg(figure)
    return figure


def png(figure: Figure) -> bytes:
    """Return the figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def small_png(figure: Figure, most: int, dpi: int = 110) -> bytes:
    """Return the figure as PNG of few colours, as many as fit into `most` bytes."""
    from PIL import Image

    figure.set_dpi(dpi)
    image = Image.fromarray(pixels(figure))
    for colors in (256, 128, 64, 48, 32, 24, 16):
        buffer = io.BytesIO()
        packed = image.quantize(colors, dither=Image.Dither.NONE)
        packed.save(buffer, format="PNG", optimize=True)
        if len(buffer.getvalue()) < most:
            break
    return buffer.getvalue()


def pixels(figure: Figure) -> np.ndarray:
    """Return the figure as (height, width, 3) uint8."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def bare(axes: Axes) -> None:
    """Take ticks and spines away: the axes hold an image."""
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def to_display(images: np.ndarray) -> np.ndarray:
    """Turn (n, C, H, W) images into (n, H, W) or (n, H, W, 3) floats in [0, 1]."""
    if images.ndim != 4:
        raise UserError(f"images: shape (n, C, H, W) is needed, got {images.shape}")
    values: np.ndarray = images.astype(np.float32)
    if np.issubdtype(images.dtype, np.integer):
        values = values / 255
    shown: np.ndarray = values.clip(0, 1)
    return np.moveaxis(shown, 1, 3) if shown.shape[1] == 3 else shown[:, 0]


def tile(images: np.ndarray, columns: int, *, gap: int = 1, fill: float = 1.0) -> np.ndarray:
    """Lay displayable images out in rows of `columns`, `gap` pixels apart."""
    count, height, width = images.shape[:3]
    rows = -(-count // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, *images.shape[3:])
    sheet = np.full(shape, fill, dtype=np.float32)
    for i, image in enumerate(images):
        row, column = divmod(i, columns)
        top, left = row * (height + gap), column * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def wrap(names: Sequence[str], length: int = 14) -> list[str]:
    """Shorten long class names for ticks and legends."""
    return [name if len(name) <= length else name[: length - 1] + "…" for name in names]
