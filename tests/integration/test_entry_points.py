"""An embedding, a metric and a source of an installed package: docs/extending.md, word for word."""

import re
import sys
import tomllib
from pathlib import Path

import pytest

from evaluation import read_results
from launch.cli import main
from tests.training_runs import ROOT

PAGE = (ROOT / "docs" / "extending.md").read_text()


def test_the_page_in_an_installed_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)[-1]
    table = tomllib.loads(re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[-1])
    (tmp_path / "others.py").write_text(module)
    info = tmp_path / "others-1.0.dist-info"  # what pip leaves behind
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    points = table["project"]["entry-points"]
    (info / "entry_points.txt").write_text(
        "".join(
            f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in own.items())
            for group, own in points.items()
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert len(points) == 3

    assert main(["prepare", "--dataset", "stripes", "--out", "d"]) == 0
    evaluate = ["evaluate", "--data", "d", "--methods", "pca", "random_projection", "--dims", "3"]
    evaluate += ["--cache", "c"]
    assert main([*evaluate, "--out", "e", "--report", "False", "--cpu", "True"]) == 0
    rows = read_results(tmp_path / "e").rows
    found = {row.embedding: row.value for row in rows if row.metric == "nearest_mean"}
    assert found.keys() == {"pca-3", "random_projection-3"}
    assert found["pca-3"] > 0.9
    accuracy = [
        r.value for r in rows if (r.method, r.metric) == ("random_projection", "knn_test_accuracy")
    ]
    assert max(value for value in accuracy if value is not None) > 0.5

    # Another version of the package: what the first one measured is not taken from the cache.
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.1\n")
    monkeypatch.setattr(sys.modules["others"], "nearest_mean", lambda *_: 0.25)
    assert main([*evaluate, "--out", "e2", "--report", "False", "--cpu", "True"]) == 0
    rows = read_results(tmp_path / "e2").rows
    assert {row.value for row in rows if row.metric == "nearest_mean"} == {0.25}
    sys.modules.pop("others", None)
