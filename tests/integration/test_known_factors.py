"""Evaluation of images whose factors are known: MIG and DCI of every method, shown everywhere."""

import csv
import json
from dataclasses import replace

import pytest

from data_pipeline.sources import SourceConfig, load_source
from evaluation.evaluation import EvaluateConfig, evaluate
from evaluation.results.blanks import DISENTANGLEMENT
from launch.evaluate import print_table
from tests.data_folders import written
from tests.run_folders import write_run


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sprites")
    source = load_source(SourceConfig(dataset="sprites", sprites=600, image_size=16))
    data = written(folder / "data", source)
    run = write_run(folder / "one", data)
    config = EvaluateConfig(
        runs=(run,), data=data.path, out=folder / "eval", dims=(1, 3), repeats=1, backend="cpu",
        methods=("raw", "pca", "vae"),
    )  # fmt: skip
    return config, evaluate(config)


def test_every_method_has_figures_or_a_reason(evaluated, capsys):
    config, results = evaluated
    for metric in DISENTANGLEMENT:
        found = {row.embedding: row for row in results.find(metric)}
        assert set(found) == {"pca-1", "pca-3", "vae-4-one"}
        assert found["pca-1"].value is None
        assert "one dimension" in found["pca-1"].note
        for name in ("pca-3", "vae-4-one"):
            assert 0 <= found[name].value <= 1
            assert "factors shape, scale, orientation, x, y" in found[name].note
    rows = json.loads((config.out / "results.json").read_text())["rows"]
    assert {row["metric"] for row in rows} >= set(DISENTANGLEMENT)
    with (config.out / "leaderboard.csv").open() as file:
        assert any(line["mig"] for line in csv.DictReader(file))
    print_table(results)
    said = capsys.readouterr().out
    assert "MIG" in said
    assert "measured of embeddings" in said  # the pixels themselves
    page = (config.out / "report.html").read_text()
    for sentence in ("mutual information gap", "is each factor told by one dimension only"):
        assert sentence in page


def test_second_evaluation_takes_the_figures_from_the_cache(evaluated):
    config, first = evaluated
    again = evaluate(replace(config, report=False))
    assert {one.backend for one in again.stages if one.stage == "measure"} == {"cache"}
    for metric in DISENTANGLEMENT:
        values = [[row.value for row in results.find(metric)] for results in (first, again)]
        assert values[0] == values[1]
