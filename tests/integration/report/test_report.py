"""The report as a file."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import evaluation.report
from data_pipeline.errors import UserError
from evaluation.files import read_arrays, write_arrays
from evaluation.measures.protocol import shown_rows
from evaluation.report import MOST_BYTES, write_report
from evaluation.report.explorer import sprite
from evaluation.results.files import read_results, write_results
from evaluation.results.records import Failure

NASTY = ("<b>", "<img src=x", "onerror=alert(1)>")


@pytest.fixture(scope="module")
def html(evaluation_folder: Path, report_path: Path) -> str:
    assert report_path == evaluation_folder / "report.html"
    assert report_path.stat().st_size < MOST_BYTES
    return report_path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("map/pca-2", lambda a: a * np.float32(np.nan)),
        ("map/pca-2", lambda a: a[:-1]),
        ("map/pca-2", lambda a: a.astype(np.float64)),
        ("sample_labels", lambda a: a + 100),
        ("sample_position", lambda a: a - 10**9),
        ("sample_images", lambda a: a[:, 0]),
        ("originals", lambda a: a[0]),
        ("confusion/pca-2", lambda a: -a),
        ("map/pca-77", lambda a: np.zeros((3, 2), np.float32)),
        ("surprise", lambda a: np.zeros(3)),
    ],
)
def test_damaged_arrays_are_named(evaluation_folder, tmp_path, name, change):
    """The report is refused in one line that names the file and the array."""
    arrays = read_arrays(evaluation_folder / "artifacts.npz")
    shutil.copy(evaluation_folder / "results.json", tmp_path)
    write_arrays(tmp_path / "artifacts.npz", arrays | {name: change(arrays.get(name))})
    with pytest.raises(UserError, match=rf"artifacts.npz: {name}: "):
        write_report(tmp_path)


def test_names_are_escaped(html: str) -> None:
    for piece in NASTY:
        assert piece not in _without_bokeh(html)
    assert "a&lt;b&gt;&amp;&#39;$x$" in html


def _without_bokeh(html: str) -> str:
    scripts = re.findall(r"<script>.*?</script>", html, flags=re.S)
    return html.replace(max(scripts, key=len), "")


def test_nothing_is_loaded_from_elsewhere(html: str) -> None:
    own = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    assert not re.findall(r"(?:src|href|srcset|url\()\s*=?\s*[\"']?https?:", own)
    assert "default-src 'none'" in own


def test_tables_hold_the_figures(html: str, evaluation_folder: Path) -> None:
    results = read_results(evaluation_folder)
    best = max(row.value or 0 for row in results.rows if row.metric == "knn_test_accuracy")
    assert f"{best:.4f}" in html
    assert f"[{best - 0.005:.4f}, {best + 0.005:.4f}]" in html
    block = re.search(r'id="records-data">(.*?)</script>', html, re.S)
    assert block is not None
    records = json.loads(block.group(1))
    assert len(records["rows"]) == len(results.rows)


def test_how_it_was_made_is_told(html: str) -> None:
    for part in ("n_neighbors 5", "119,591", "no CUDA device", "version of numpy", "seed 42"):
        assert part in html


def test_failed_runs_are_named(evaluation_folder: Path, tmp_path: Path) -> None:
    results = read_results(evaluation_folder)
    results.failed = [Failure(run="runs/broken<1>", error="model.safetensors: cut short")]
    results.embeddings, results.rows, results.runs = [], [], []
    write_results(tmp_path, results)
    html = write_report(tmp_path).read_text(encoding="utf-8")
    assert "runs/broken&lt;1&gt;" in html
    assert "cut short" in html


def test_photographs_fit_too() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3000, 3, 64, 48), dtype=np.uint8)
    url, columns, (width, height) = sprite(noise)
    assert len(url) < 5_000_000
    assert (columns, width, height) == (64, 36, 48)
    with Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))) as sheet:
        assert sheet.size == (64 * 36, 47 * 48)


def test_100_000_test_images_make_a_small_page(evaluation_folder: Path, tmp_path: Path) -> None:
    """The page holds 3,000 of them, drawn by the seed, and says so."""
    results = read_results(evaluation_folder)
    results.counts["test"] = 100_000
    write_results(tmp_path, results)
    held = read_arrays(evaluation_folder / "artifacts.npz")
    arrays = {name: array for name, array in held.items() if name.startswith(("sample_", "map/"))}
    shown, rng = shown_rows(100_000, results.seed), np.random.default_rng(0)
    again = rng.integers(0, len(arrays["sample_images"]), len(shown))
    for name, array in arrays.items():
        if name.startswith("sample_"):
            arrays[name] = array[again]
        elif name.startswith("map/"):
            arrays[name] = rng.normal(size=(len(shown), 2)).astype(np.float32)
    noise = rng.integers(0, 256, (len(shown), *results.image_shape), dtype=np.uint8)
    arrays |= {"sample_position": shown, "sample_images": noise}
    write_arrays(tmp_path / "artifacts.npz", arrays)
    path = write_report(tmp_path)
    assert path.stat().st_size < MOST_BYTES
    page = path.read_text(encoding="utf-8")
    said = "3,000 test images on every map, drawn at random (seed 42) from all 100,000"
    assert said in page
    assert shown[-1] > 90_000


def test_too_large_a_report_is_refused(
    evaluation_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = read_results(evaluation_folder)
    results.rows = []
    write_results(tmp_path, results)
    monkeypatch.setattr(evaluation.report, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="fewer runs"):
        write_report(tmp_path)
    assert not (tmp_path / "report.html").exists()
