"""Pictures of a study, from the evaluation of its runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_pipeline.errors import files_of_user
from data_pipeline.files import write_whole
from launch.ablate.figures import Cell
from launch.ablate.study import FIGURES, METHODS, PICTURES, Study, StudyRow
from launch.ablate.verdict import over_seeds
from launch.sweep.trainings import Training

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from evaluation.figures import Theme
    from evaluation.results.folder import Folder

MOST_BYTES = {"panels": 100_000}
OTHERS_BYTES = 65_000
DPI = 80
MOST_ROWS = 8  # of images under each other
MOST_POINTS = 1500  # of a panel


@dataclass(frozen=True)
class Drawn:
    """A picture that lies beside a page."""

    name: str
    caption: str
    path: Path


@dataclass(frozen=True)
class Material:
    """What a picture is drawn from: a study on one data set."""

    study: Study
    cells: dict[str, Cell]
    folder: Folder
    runs: dict[str, str]
    """Row to the name that the evaluation gave its first run."""

    @property
    def rows(self) -> list[StudyRow]:
        """The rows that have runs."""
        return [row for row in self.study.rows if row.name in self.runs]

    def varied(self, setting: str) -> list[StudyRow]:
        """The rows that differ from the base in nothing else."""
        return [row for row in self.rows if not row.preset and not row.settings.keys() - {setting}]


def draw_pictures(
    study: Study,
    data: str,
    cells: dict[str, Cell],
    done: dict[str, list[Training]],
    runs_dir: Path,
    out: Path,
) -> list[Drawn]:
    """Draw the pictures that a study asks for into a folder, each of less than 100 kB.

    A picture that the trained rows do not give is not drawn.
    """
    from evaluation.figures import LIGHT, small_png
    from evaluation.results.folder import Folder

    folder = Folder(runs_dir / "evaluations" / f"{study.name}-{data}")
    names = {info.path: info.name for info in folder.results.runs}
    paths = {row: str(runs_dir / trainings[0].name) for row, trainings in done.items()}
    runs = {row: names[path] for row, path in paths.items() if path in names}
    material = Material(study, cells, folder, runs)
    found = []
    for name in study.pictures:
        for caption, draw in MAKERS[name](material):
            path = out / f"{study.name}-{data}-{name}.png"
            content = small_png(draw(LIGHT), MOST_BYTES.get(name, OTHERS_BYTES), DPI)
            with files_of_user(f"--write: {path}: cannot be written"):
                out.mkdir(parents=True, exist_ok=True)
                write_whole(path, content)
            found.append(Drawn(name, caption, path))
    return found


Made = Iterator[tuple[str, "Callable[[Theme], Figure]"]]


def _panels(of: Material) -> Made:
    from evaluation.figures.scatter import Panel, scatter_panels

    maps, labels = of.folder.named("map"), of.folder.artifacts.get("sample_labels")
    ids = {item.run: item.id for item in of.folder.results.embeddings if item.method == "vae"}
    panels = []
    for method, axes in (("pca", "principal axis"), ("umap", "UMAP")):
        if points := [maps[name] for name in (f"{method}-2", f"{method}-10") if name in maps]:
            shown = points[0][:MOST_POINTS]
            panels.append(Panel(method.upper(), shown, f"{axes} 1", f"{axes} 2"))
    first, best = of.rows[0].name, max(of.runs, key=lambda row: _mean(of.cells[row], "knn"))
    for row in dict.fromkeys([first, best]):
        own = [f"axis {i} of its {of.cells[row].latents} latents" for i in (1, 2)]
        panels.append(Panel(f"VAE: {row}", maps[ids[of.runs[row]]][:MOST_POINTS], *own))
    if labels is None:
        return
    labels = labels[:MOST_POINTS]
    caption = (
        f"{len(labels):,} test images by class: the article's three panels, "
        if len(panels) > 2
        else f"{len(labels):,} test images by class: "
    )
    caption += f"with the VAE `{first}`" + (
        f" and the row of the best KNN, `{best}`" * (first != best)
    )
    classes = of.folder.results.classes
    yield caption, lambda theme: scatter_panels(panels, labels, classes, theme=theme)


def _neighbours(of: Material) -> Made:
    from evaluation.figures.charts import accuracy_against_k
    from evaluation.figures.pictures import curves

    rows = of.folder.results.find("knn_cv_accuracy", weights="distance")
    first = of.rows[0].name
    named = {f"{method}-10": f"{method.upper()}, 10 dimensions" for method in METHODS}
    named |= {
        item.id: f"VAE {first}, {item.dim} latents"
        for item in of.folder.results.embeddings
        if item.method == "vae" and item.run == of.runs[first]
    }
    methods = [
        (title, curves(own))
        for name, title in named.items()
        if (own := [row for row in rows if row.embedding == name and row.value is not None])
    ]
    caption = "Accuracy against k by samples a class, cross-validated, weights by distance"
    y_label = "accuracy (share)"
    yield caption, lambda theme: accuracy_against_k(methods, theme=theme, y_label=y_label)


def _reconstructions(of: Material) -> Made:
    from evaluation.figures.grids import labelled

    images, kind = of.folder.artifacts, "reconstruction"
    rows = [("original", images["originals"][::2])]
    rows += [
        (row.name, images[key][::2])
        for row in of.rows[:MOST_ROWS]
        if (key := f"{kind}/{of.runs[row.name]}") in images
    ]
    caption = "One test image of each class, and what is left of it after encoding and decoding"
    yield caption, lambda theme: labelled(rows, theme=theme)


def _samples(of: Material) -> Made:
    from evaluation.figures.grids import labelled

    images = of.folder.artifacts
    rows = [
        (row.name, images[key][:12])
        for row in of.rows[:MOST_ROWS]
        if (key := f"samples/{of.runs[row.name]}") in images
    ]
    yield "Draws from the prior, decoded, not chosen", lambda theme: labelled(rows, theme=theme)


def _traversals(of: Material) -> Made:
    from evaluation.figures.grids import traversals

    row = of.rows[0].name
    images = of.folder.artifacts.get(f"traversal/{of.runs[row]}")
    if images is None:
        return
    latents = of.folder.artifacts[f"traversal_latent/{of.runs[row]}"]
    steps = np.linspace(-3, 3, images.shape[1])
    names = [f"latent {int(latent)}" for latent in latents]
    caption = f"Each row moves one latent of `{row}`, the most active one on top"
    yield caption, lambda theme: traversals(images, steps, names, theme=theme)


def _against_latents(of: Material) -> Made:
    rows = of.varied("latent_size")
    yield from _against(
        of, rows, "latents", "latents", [str(of.cells[r.name].latents) for r in rows]
    )


def _against_parameters(of: Material) -> Made:
    first: dict[Any, StudyRow] = {}
    for row in of.rows:
        first.setdefault((of.cells[row.name].parameters, row.settings.get("model_type")), row)
    rows = [row for row in first.values() if row.settings.keys() <= MODEL]
    yield from _against(of, rows, "parameters", "parameters", [row.name for row in rows])


MODEL = {"model_type", "conv_width", "conv_depth", "model_multiplier"}


def _against(
    of: Material, rows: list[StudyRow], quantity: str, label: str, names: list[str]
) -> Made:
    from evaluation.figures.trends import Point, Trend, trends

    if len(rows) < 3:
        return
    panels = []
    for figure in ("knn", "ssim"):
        points = []
        for name, row in zip(names, rows, strict=True):
            cell = of.cells[row.name]
            x, y = getattr(cell, quantity), over_seeds(cell.of(figure))
            points.append(Point(name, float(x), y.mean, 0.0, _half(y)))
        levels = [
            (method.upper(), _mean(of.cells[method], figure))
            for method in METHODS
            if method in of.cells and of.cells[method].of(figure)
        ]
        joined = quantity == "latents"
        panels.append(Trend(label, FIGURES[figure], points, levels, joined, logarithmic=True))
    caption = f"Accuracy and SSIM against {quantity}; bars are 95 % intervals over the seeds"
    yield caption, lambda theme: trends(panels, theme=theme)


def _rate_distortion(of: Material) -> Made:
    from evaluation.figures.trends import Point, Trend, trends

    rows = of.varied("kl_loss_weight")
    if len(rows) < 3:
        return
    panels = []
    for figure in ("recon", "knn"):
        points = []
        for row in rows:
            x, y = (over_seeds(of.cells[row.name].of(each)) for each in ("kl", figure))
            points.append(Point(row.what or row.name, x.mean, y.mean, _half(x), _half(y)))
        panels.append(Trend("rate: KL, nats", FIGURES[figure], points))
    caption = "Distortion and accuracy against the rate; bars are 95 % intervals over the seeds"
    yield caption, lambda theme: trends(panels, theme=theme)


def _mean(cell: Cell, figure: str) -> float:
    values = cell.of(figure)
    return over_seeds(values).mean if values else float("-inf")


def _half(found: Any) -> float:
    return float(np.nan_to_num((found.high - found.low) / 2))


MAKERS: dict[str, Callable[[Material], Made]] = {
    "panels": _panels,
    "neighbours": _neighbours,
    "reconstructions": _reconstructions,
    "samples": _samples,
    "traversals": _traversals,
    "latents": _against_latents,
    "parameters": _against_parameters,
    "rate_distortion": _rate_distortion,
}
assert tuple(MAKERS) == PICTURES
