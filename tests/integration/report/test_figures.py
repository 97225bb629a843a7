"""Pictures of a whole evaluation folder."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.figures import DARK, LIGHT, pictures, write_figures
from evaluation.figures.scatter import Panel, scatter_panels
from evaluation.files import read_arrays, write_arrays
from evaluation.results.files import read_results, write_results
from evaluation.results.folder import Folder

EXPECTED = [
    "compare", "test_accuracy", "accuracy_against_k", "reconstructions", "samples", "traversals",
    "interpolations", "latents", "confusion", "training",
]  # fmt: skip


def test_every_picture_is_written(evaluation_folder: Path) -> None:
    paths = write_figures(evaluation_folder)
    assert [path.stem for path in paths] == EXPECTED
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L"))
        assert pixels.shape[1] > 600
        assert pixels.std() > 5, f"{path.name} is empty"
        assert pixels[:, 0].min() > 200, f"{path.name} touches its left edge"


def test_many_runs_leave_room_for_what_they_are_compared_with(
    evaluation_folder: Path, tmp_path: Path
) -> None:
    results = read_results(evaluation_folder)
    vae = next(item for item in results.embeddings if item.method == "vae")
    rows = [row for row in results.rows if row.embedding == vae.id]
    for number in range(20):
        name = f"{vae.id}-{number}"
        results.embeddings.append(replace(vae, id=name, title=f"VAE {number}"))
        results.rows += [replace(row, embedding=name, value=0.99) for row in rows]
    write_results(tmp_path, results)
    found = {picture.name: picture for picture in pictures(Folder(tmp_path))}
    picture = found["accuracy_against_k"]
    titles = {axes.get_title("left") for axes in picture.draw(LIGHT).axes if axes.get_visible()}
    assert len(titles) == 12
    assert {"PCA 2", "PCA 10", "UMAP 2"} < titles
    assert "12 lower embeddings" in picture.caption  # of 24


def test_a_dark_picture_has_a_dark_ground(evaluation_folder: Path) -> None:
    first = next(pictures(Folder(evaluation_folder)))
    for theme, low, high in ((LIGHT, 254, 255), (DARK, 20, 30)):
        figure = first.draw(theme)
        figure.canvas.draw()
        corner = np.asarray(figure.canvas.buffer_rgba())[0, 0, :3]
        assert low <= corner.mean() <= high


def test_drawing_leaves_pyplot_and_settings_alone(evaluation_folder: Path) -> None:
    code = (
        "import sys, pathlib, matplotlib\n"
        "before = matplotlib.rcParams.copy()\n"
        "from evaluation.figures import DARK, pictures\n"
        "from evaluation.results.folder import Folder\n"
        "next(pictures(Folder(pathlib.Path(sys.argv[1])))).draw(DARK)\n"
        "assert matplotlib.rcParams.copy() == before\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code, str(evaluation_folder)], check=True, timeout=120)


def test_importing_draws_nothing_in() -> None:
    code = (
        "import sys, evaluation.figures, evaluation.report, evaluation.report.projector\n"
        "heavy = {'matplotlib', 'bokeh', 'jinja2', 'PIL', 'tensorboard', 'torch'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.fixture
def without_labels(evaluation_folder: Path, tmp_path: Path) -> Path:
    """The same folder of a set without labels, runs and artifacts that need them."""
    results = read_results(evaluation_folder)
    results.classes, results.runs, results.rows = [], [], []
    results.embeddings = [item for item in results.embeddings if item.run is None]
    write_results(tmp_path, results)
    arrays = read_arrays(evaluation_folder / "artifacts.npz")
    kept = {
        name: value
        for name, value in arrays.items()
        if name.startswith(("sample_images", "sample_position", "map/pca", "map/umap"))
    }
    kept["sample_labels"] = np.full(len(kept["sample_images"]), -1)
    write_arrays(tmp_path / "artifacts.npz", kept)
    return tmp_path


def test_what_is_missing_is_left_out(without_labels: Path) -> None:
    assert [path.stem for path in write_figures(without_labels)] == ["compare"]


def test_results_alone_give_the_charts(evaluation_folder: Path, tmp_path: Path) -> None:
    write_results(tmp_path, read_results(evaluation_folder))
    assert [path.stem for path in write_figures(tmp_path)] == [
        "test_accuracy",
        "accuracy_against_k",
        "latents",
    ]


def test_no_results_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="vae-dist evaluate"):
        write_figures(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_the_legend_of_few_panels_lies_within_the_picture(count: int) -> None:
    labels = np.arange(200) % 10
    points = np.random.default_rng(0).normal(size=(200, 2))
    classes = [f"a long class {code}" for code in range(10)]
    figure = scatter_panels([Panel("p", points)] * count, labels, classes, theme=LIGHT)
    figure.canvas.draw()
    box = figure.legends[0].get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
