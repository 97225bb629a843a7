"""``vae-dist ablate``: rows over seeds, trained once; statements judged; one page."""

import functools
import json
import math
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_pipeline.errors import UserError
from evaluation.figures import LIGHT
from evaluation.results.folder import Folder
from launch.ablate.figures import Cell
from launch.ablate.page import page, write_page
from launch.ablate.pictures import MAKERS, Material
from launch.ablate.reading import read_study, study_names
from launch.ablate.study import Record, Statement
from launch.ablate.targets import MEAN, MISSED, REACHED, UNTRAINED, outcomes
from launch.ablate.verdict import (
    DEPENDS,
    HELD,
    MISSING,
    NOT,
    OPEN,
    difference,
    judge,
    over_seeds,
    seeds_needed,
    together,
)
from launch.cli import main
from launch.sweep import carry_out as sweep
from tests.data_folders import digits, written
from tests.training_runs import environment
from tests.warm import run_warm

STUDY = """
title = "A small study"
base = "article2018_fc"
seeds = [1, 2]
pictures = ["panels", "neighbours", "reconstructions", "samples", "traversals", "rate_distortion"]
[fixed]
epochs = 1
batch_size = 64
tensorboard = false
telemetry_interval = 0
[[row]]
name = "three"
what = "3 latents"
latent_size = 3
[[row]]
name = "slow"
what = "a rate of 1e-6"
latent_size = 3
lr = 1e-6
[[statement]]
text = "A tiny rate is worse"
figure = "ssim"
rows = ["slow"]
against = "three"
expect = "lower"
[[statement]]
text = "PCA finds every class"
figure = "knn"
rows = ["pca"]
expect = "at least"
value = 0.999
"""
RECORDS = """
title = "Records"
about = "Every choice was made on val."
seeds = [1, 2]
[fixed]
epochs = 1
batch_size = 64
tensorboard = false
telemetry_interval = 0
[evaluation]
nll_samples = 4
nll_images = 60
[[row]]
name = "small"
what = "3 latents"
preset = "article2018_fc"
latent_size = 3
[[row]]
name = "elsewhere"
what = "for a data set that is not given"
preset = "article2018_best"
sets = ["mnist"]
[[record]]
text = "any size: 5-NN on all labels"
row = "small"
figure = "knn_all"
at_least = 0.05
[[record]]
text = "the bound"
row = "small"
figure = "nll"
at_most = 1.0
[[record]]
text = "the bound, MNIST"
row = "elsewhere"
figure = "nll"
at_most = 84.5
"""

known = functools.cache(read_study)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trainings that were started, in real processes."""
    names: list[str] = []

    def run(words: list[str], out: object) -> int:
        assert words[:3] == [sys.executable, "-m", "launch.cli"]
        names.append(words[words.index("--name") + 1])
        return run_warm(words[3:], environment()).returncode

    monkeypatch.setattr(sweep, "_run", run)
    return names


def test_a_study_is_trained_once_and_its_statements_are_judged(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    written(tmp_path / "data", digits())
    (tmp_path / "small.toml").write_text(STUDY)
    path = tmp_path / "docs" / "results.md"
    words = ["ablate", "--study", str(tmp_path / "small.toml"), "--data", str(tmp_path / "data")]
    words += ["--runs-dir", str(tmp_path / "runs"), "--write", str(path)]
    assert main([*words, "--rows", "three"]) == 0
    assert [name.split("-", 2)[2] for name in trained] == ["three-seed1", "three-seed2"]
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    assert [name.split("-", 2)[2] for name in trained[2:]] == ["slow-seed1", "slow-seed2"]
    said = json.loads(capsys.readouterr().out)
    assert [each["verdict"] for each in said["statements"]] == [HELD, NOT]
    (figures,) = said["figures"].values()
    assert len(figures["three"]["ssim"]) == len(figures["three"]["knn"]) == 2
    assert min(figures["three"]["ssim"]) > max(figures["slow"]["ssim"])
    assert figures["three"]["parameters"] == figures["slow"]["parameters"]
    content = path.read_text()
    assert content.count("## A small study") == 1  # the second text is in the place of the first
    # Under a statement stand its figures, the difference, and the command that makes them.
    assert "**A tiny rate is worse: held.**" in content
    compared = difference(figures["slow"]["ssim"], figures["three"]["ssim"])
    assert f"({compared.mean:+.3f}, from {compared.low:+.3f} to {compared.high:+.3f})" in content
    assert "--study small --data FOLDER --rows three slow\n" in content
    assert "--study small --data FOLDER --train False\n" in content  # pca alone trains nothing
    minutes = sum(sum(figures[name]["minutes"]) for name in ("three", "slow"))
    assert f"The steps of 4 trainings took\n{minutes:.0f} minutes" in content
    assert str(over_seeds(figures["three"]["ssim"])) in content
    # Pictures are linked, lie beside the page and are small; two rows of one beta give no curve.
    linked = re.findall(r"\((images/small-digits-(\w+)\.png)\)", content)
    drawn = ["panels", "neighbours", "reconstructions", "samples", "traversals"]
    assert [name for _, name in linked] == drawn
    sizes = [(path.parent / link).stat().st_size for link, _ in linked]
    assert min(sizes) > 2_000
    assert max(sizes) < 100_000
    # The figures are those of the runs, as evaluate alone finds them.
    run = next((tmp_path / "runs").glob("*three-seed1"))
    out = tmp_path / "alone"
    alone = ["evaluate", "--runs", str(run), "--data", str(tmp_path / "data"), "--methods", "vae"]
    assert main([*alone, "--out", str(out), "--report", "False"]) == 0
    rows = json.loads((out / "results.json").read_text())["rows"]
    (ssim,) = [row["value"] for row in rows if row["metric"] == "ssim" and row["split"] == "test"]
    assert ssim == figures["three"]["ssim"][0]
    elbo = next(row["value"] for row in rows if row["metric"] == "elbo")
    assert -figures["three"]["recon"][0] - figures["three"]["kl"][0] == pytest.approx(elbo)
    # The same runs, copied from where they were trained, under the names of another study.
    there = tmp_path / "copied"
    for run in (tmp_path / "runs").glob("small-*-seed?"):
        shutil.copytree(run, there / f"other{run.name.removeprefix('small')}", symlinks=True)
    for path in there.glob("*-slow-*/environment.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"device": "NVIDIA H100"}))
    (tmp_path / "other.toml").write_text(STUDY)
    words = ["ablate", "--study", str(tmp_path / "other.toml"), "--data", str(tmp_path / "data")]
    words += ["--runs-dir", str(there), "--write", str(tmp_path / "other.md"), "--json"]
    before = len(trained)
    capsys.readouterr()
    assert main(words) == 0
    assert len(trained) == before
    (again,) = json.loads(capsys.readouterr().out)["figures"].values()
    assert again["slow"]["ssim"] == figures["slow"]["ssim"]
    assert "CPU cores: three; on NVIDIA H100: slow." in (tmp_path / "other.md").read_text()
    (tmp_path / "other.toml").write_text(STUDY.replace("lr = 1e-6", "lr = 1e-5"))
    assert main([*words, "--train", "False"]) == 2
    assert "lr is 1e-06, and 1e-05 in the study" in capsys.readouterr().err


def test_records_are_held_against_their_targets(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A row starts from its own preset; one for another data set is not trained here."""
    written(tmp_path / "data", digits())
    (tmp_path / "best.toml").write_text(RECORDS)
    path = tmp_path / "results.md"
    words = ["ablate", "--study", str(tmp_path / "best.toml"), "--data", str(tmp_path / "data")]
    words += ["--runs-dir", str(tmp_path / "runs"), "--write", str(path), "--json"]
    assert main(words) == 0
    assert [name.split("-", 2)[2] for name in trained] == ["small-seed1", "small-seed2"]
    said = json.loads(capsys.readouterr().out)
    reached, missed = said["records"]
    assert [reached["verdict"], missed["verdict"]] == [REACHED, MISSED]
    (figures,) = said["figures"].values()
    assert figures["small"]["latents"] == 3
    content = path.read_text()
    assert "Every choice was made on val." in content
    (line,) = [line for line in content.splitlines() if "5-NN on all labels" in line]
    shown = over_seeds(reached["values"]).text(4)
    assert f"| small | {figures['small']['parameters']:,} | 3 | {shown} | at least 0.05 |" in line
    assert line.endswith("CPU cores |")
    assert "(4 samples, the first 60 test images)" in content
    assert "--latent-size 3 --seed 1 --data FOLDER --name small\n" in content
    # The figure is that of evaluate, and the bound is closer than the ELBO.
    run = next((tmp_path / "runs").glob("*small-seed1"))
    alone = ["evaluate", "--runs", str(run), "--data", str(tmp_path / "data"), "--methods", "vae"]
    alone += ["--out", str(tmp_path / "alone"), "--report", "False", "--protocol", "all_labels"]
    assert main(alone) == 0
    rows = json.loads((tmp_path / "alone" / "results.json").read_text())["rows"]
    wanted = {"metric": "knn_all_test_accuracy", "k": 5, "weights": "uniform"}
    assert [row["value"] for row in rows if wanted.items() <= row.items()] == reached["values"][:1]
    # Runs that are done and cannot be read leave the page as it was.
    for weights in (tmp_path / "runs").glob("*/checkpoints/step-*/model.safetensors"):
        weights.unlink()
    capsys.readouterr()
    assert main([*words, "--train", "False"]) == 2
    assert "is done and can be read" in capsys.readouterr().err
    assert path.read_text() == content


def test_a_target_within_the_interval_is_reached_by_the_mean_only() -> None:
    study = known("article2018")
    records = [
        Record(text="t", row="best", figure="knn", at_least=0.8),
        Record(text="t", row="best", figure="recon", at_most=219.0),
        Record(text="t", row="umap", figure="knn", at_least=0.9),
        Record(text="t", row="z20", figure="knn", at_least=0.9),
    ]
    cells = {
        "fmnist": {
            "best": Cell([0.6, 0.6], [0.79, 0.82], [218.0, 218.1]),
            "umap": Cell([], [0.79]),
        }
    }
    found = outcomes(replace(study, records=records), cells)
    assert [each.verdict for each in found] == [MEAN, REACHED, MISSED, UNTRAINED]


def statement(**more: object) -> Statement:
    return Statement(**{"text": "t", "figure": "ssim", "rows": ["a"], "against": "b", **more})


@pytest.mark.parametrize(
    ("expect", "values", "others", "verdict"),
    [
        ("higher", [0.7, 0.71, 0.72], [0.5, 0.51, 0.52], HELD),
        ("higher", [0.5, 0.51, 0.52], [0.7, 0.71, 0.72], NOT),
        ("higher", [0.5, 0.7], [0.5, 0.6], OPEN),
        ("lower", [0.5, 0.51, 0.52], [0.7, 0.71, 0.72], HELD),
        ("alike", [0.700, 0.701, 0.702], [0.699, 0.700, 0.701], HELD),
        ("alike", [0.800, 0.801, 0.802], [0.699, 0.700, 0.701], NOT),
        ("alike", [0.69, 0.72], [0.6, 0.8], OPEN),
        ("higher", [0.9], [0.1], OPEN),  # one training says nothing of the next
        ("higher", [0.9, 0.9], [], MISSING),
    ],
)
def test_a_verdict_needs_an_interval_on_one_side(
    expect: str, values: list[float], others: list[float], verdict: str
) -> None:
    assert judge(statement(expect=expect, margin=0.01), values, others) == verdict


def test_at_least_is_judged_by_the_interval_of_the_row_itself() -> None:
    above = statement(expect="at least", against="", value=0.8)
    assert judge(above, [0.81, 0.811, 0.812], []) == HELD
    assert judge(above, [0.79, 0.81], []) == OPEN
    assert judge(above, [0.70, 0.701, 0.702], []) == NOT


@pytest.mark.parametrize(
    ("study", "name", "rows", "labels"),
    [
        ("article2018", "latents", ["best", "z2", "z20"], ["10", "2", "20"]),
        ("article2018", "parameters", ["best", "fc", "fcn"], ["best", "fc", "fcn"]),
        (
            "rate_distortion",
            "rate_distortion",
            ["beta_05", "beta_1", "beta_4"],
            ["beta 0.5", "beta 1", "beta 4"],
        ),
    ],
)
def test_charts_show_the_rows_that_differ_in_one_thing(
    study: str, name: str, rows: list[str], labels: list[str], tmp_path: Path
) -> None:
    figures: dict[str, Any] = {"ssim": [0.6, 0.7], "knn": [0.7, 0.8], "recon": [230.0, 231.0]}
    cells = {
        row: Cell(**figures, kl=[5.0 + i, 5.1 + i], parameters=1000 * (i + 1), latents=int(label))
        if name == "latents"
        else Cell(**figures, kl=[5.0 + i, 5.1 + i], parameters=1000 * (i + 1), latents=10)
        for i, (row, label) in enumerate(zip(rows, labels, strict=True))
    }
    others = {"mse": Cell(**figures, parameters=5, latents=3)} if name != "rate_distortion" else {}
    names = {row: row for row in (cells | others)}
    material = Material(known(study), cells | others, Folder(tmp_path), names)
    ((caption, draw),) = MAKERS[name](material)
    assert "95 % intervals over the seeds" in caption
    figure = draw(LIGHT)
    for axes in figure.axes:
        assert sorted(text.get_text() for text in axes.texts) == sorted(labels)
    cells.pop(rows[-1])
    assert list(MAKERS[name](replace(material, cells=cells, runs=dict.fromkeys(cells, "")))) == []


def test_what_is_not_decided_names_the_seeds_that_would_decide() -> None:
    """With that many values of the same mean and spread the verdict falls, with one fewer it does not."""
    lower, others = statement(expect="lower"), [0.67, 0.68, 0.69]
    values = [0.66, 0.67, 0.68]
    assert judge(lower, values, others) == OPEN
    count = seeds_needed(lower, values, others)
    assert count is not None

    def like(mean: float, n: int) -> list[float]:
        shape = np.resize([-1.0, 1.0], n - n % 2).tolist() + [0.0] * (n % 2)
        return list(mean + 0.01 * np.array(shape) / np.std(shape, ddof=1))

    assert judge(lower, like(0.67, count), like(0.68, count)) == HELD
    assert judge(lower, like(0.67, count - 1), like(0.68, count - 1)) == OPEN
    assert seeds_needed(lower, [0.6, 0.7, 0.8], [0.6, 0.7, 0.8001]) is None
    study = known("article2018")
    cells = {
        "fmnist": {
            "best": Cell(others, others),
            "normalised": Cell(values, values),
            "fcn": Cell([0.6], [0.7]),
        }
    }
    text = page(study, cells, "A machine.")
    assert f"in `--seeds`): normalised about {count} a row, at the spread seen here.\n" in text
    assert "in `--seeds`): fcn needs more than one" in text


def test_at_most_is_judged_by_the_interval_of_the_row_itself() -> None:
    below = statement(figure="recon", expect="at most", against="", value=219)
    assert judge(below, [217.0, 217.1, 217.2], []) == HELD
    assert judge(below, [218.0, 220.0], []) == OPEN
    assert judge(below, [229.0, 229.1, 229.2], []) == NOT


def test_a_page_names_what_was_not_trained() -> None:
    """A verdict on some of a statement's rows does not pass for one on all."""
    study = known("article2018")
    cells = {
        "fmnist": {"best": Cell([0.67, 0.671], [0.8, 0.81]), "z20": Cell([0.67, 0.672], [0.8])}
    }
    text = page(study, cells, "A machine.")
    assert "z100 (not trained)" in text
    assert "normalised (not trained)" in text
    assert "--rows best normalised" in text
    assert "Not trained: mse, ssim, fc," in text


def test_intervals_are_those_of_student_and_welch() -> None:
    """Against the values of scipy for the same samples."""
    from scipy import stats

    a, b = [0.61, 0.64, 0.66], [0.58, 0.59, 0.63, 0.60]
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = difference(a, b)
    assert (found.low, found.high) == pytest.approx((low, high))
    low, high = stats.ttest_1samp(a, 0).confidence_interval(0.95)
    assert (over_seeds(a).low, over_seeds(a).high) == pytest.approx((low, high))
    assert math.isnan(over_seeds([0.5]).low)


def test_verdicts_of_several_sets_come_together() -> None:
    assert together([HELD, HELD, MISSING]) == HELD
    assert together([HELD, NOT]) == DEPENDS
    assert together([HELD, OPEN]) == OPEN
    assert together([MISSING]) == MISSING


@pytest.mark.parametrize("name", study_names())
def test_every_study_that_comes_along_can_be_trained(name: str) -> None:
    """Its rows are what train takes (`read_study` parses each); statements and records name rows."""
    study = known(name)
    assert len(study.rows) > 3
    assert len(study.seeds) >= 3
    assert len(study.statements) + len(study.records) > 3


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "slow"', 'name = "three"', "two rows are called three"),
        ("lr = 1e-6", "lr = -1.0", "row slow: --lr -1.0: must be above 0"),
        ('against = "three"', 'against = "tree"', "did you mean three"),
        ('expect = "lower"', 'expect = "less"', "less"),
        ("seeds = [1, 2]", "seeds = 3", "seeds must be a list"),
        ("value = 0.999", "", "at least and at most need a value"),
        ("[[row]]", "[[rows]]", "rows"),
        ("latent_size = 3", "latent = 3", "--latent"),
        ('"samples"', '"sample"', "pictures must be a list of names out of panels"),
        (
            "latent_size = 3",
            'latent_size = 3\npreset = "record"',
            "--preset record: no such preset",
        ),
        ("latent_size = 3", 'latent_size = 3\nsets = "mnist"', "sets must be a list"),
        ("[fixed]", "[evaluation]\nnll = 3\n[fixed]", "expected one of nll_samples"),
        ("[fixed]", '[[record]]\ntext = "t"\nrow = "slow"\nfigure = "knn"\n[fixed]', "either at_l"),
    ],
)
def test_a_wrong_study_is_refused_before_the_first_training(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(STUDY.replace(old, new, 1))
    with pytest.raises(UserError, match=message):
        read_study(str(path))


def test_a_page_with_one_mark_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "results.md"
    path.write_text("# Results\n<!-- ablate small: begin -->\n")
    with pytest.raises(UserError, match="has only one of"):
        write_page(path, "small", "text\n")
    assert path.read_text() == "# Results\n<!-- ablate small: begin -->\n"
