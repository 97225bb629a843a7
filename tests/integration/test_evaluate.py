"""The evaluation, whole, on scikit-learn's digits."""

import csv
import dataclasses
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.evaluate import BenchEvaluateConfig, bench_evaluate
from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError, files_of_user
from data_pipeline.order import World
from evaluation import runs as of_runs
from evaluation.cache import Cache
from evaluation.encode import encode_part, join_parts
from evaluation.evaluation import EvaluateConfig, evaluate
from evaluation.files import read_arrays
from evaluation.images import open_splits
from evaluation.report.atlas import write_atlas
from evaluation.results.files import read_results
from evaluation.team import Team
from launch.cli import main as cli
from tests.data_folders import ArraySource, digits, drawn, written
from tests.run_folders import write_run
from vae_dist.run.load import load_run
from vae_dist.telemetry import StageTimer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return written(tmp_path_factory.mktemp("data") / "digits", digits())


@pytest.fixture(scope="module")
def runs(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / "one", data), write_run(folder / "two", data, seed=1)]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, data, runs):
    out = tmp_path_factory.mktemp("eval") / "digits"
    config = EvaluateConfig(
        runs=(runs[0], out / "missing"),
        data=data.path,
        out=out,
        backend="cpu",
        repeats=2,
        report=False,
    )
    return out, config, evaluate(config)


def test_folder_holds_what_the_layout_says(evaluated, data):
    out, _, results = evaluated
    assert read_results(out) == results or read_results(out).as_json() == results.as_json()
    ids = [item.id for item in results.embeddings]
    assert ids == ["pca-2", "pca-10", "umap-2", "umap-10", "vae-4-one"]
    labels = read_arrays(out / "embeddings" / "labels.npz")
    # val is put back among the training images: the order of the source is whole again.
    assert np.array_equal(labels["train_index"], np.arange(len(labels["train_index"])))
    assert np.array_equal(labels["train_labels"], digits().splits["train"].labels)
    artifacts = read_arrays(out / "artifacts.npz")
    n = len(artifacts["sample_position"])
    for item in results.embeddings:
        arrays = read_arrays(out / "embeddings" / f"{item.id}.npz")
        assert arrays["train"].shape == (len(labels["train_index"]), item.dim)
        assert arrays["test"].shape == (len(labels["test_index"]), item.dim)
        assert arrays["train"].dtype == np.float32
        assert artifacts[f"map/{item.id}"].shape == (n, 2)
        assert artifacts[f"confusion/{item.id}"].sum() == len(labels["test_index"])
    assert artifacts["reconstruction/one"].shape == artifacts["originals"].shape
    assert json.loads((out / "curves.json").read_text())["one"][0]["loss"] == 2.0
    with (out / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(results.rows)


def test_broken_run_is_listed_and_the_rest_is_there(evaluated):
    out, _, results = evaluated
    (failure,) = results.failed
    assert (failure.run, failure.error) == (str(out / "missing"), "no such run or checkpoint")
    assert results.find("elbo", run="one")


def test_second_evaluation_computes_nothing(evaluated):
    _, config, first = evaluated
    lines: list[str] = []
    second = evaluate(config, tell=lines.append)
    begun = [re.findall(r"\d+", line)[:2] for line in lines if re.match(r"\[.*…$", line)]
    places, totals = zip(*((int(place), int(total)) for place, total in begun), strict=True)
    assert list(places) == sorted(set(places))
    assert set(totals) == {places[-1]}
    work = [stage for stage in second.stages if stage.embedding != str(config.runs[1])]
    for name in ("encode", "pca", "measure"):
        assert {stage.backend for stage in work if stage.stage == name} == {"cache"}
    assert "umap" not in {stage.stage for stage in work}
    figures = [[row.value for row in results.rows] for results in (first, second)]
    assert figures[0] == figures[1]
    costs = [
        {item.id: (item.backend, item.seconds) for item in results.embeddings if item.seconds}
        for results in (first, second)
    ]
    for name in ("pca-2", "umap-2", "vae-4-one"):
        assert costs[0][name] == costs[1][name]  # what making it cost, not what reading it did


def test_every_embedding_records_how_it_was_made(evaluated):
    _, _, results = evaluated
    for item in results.embeddings:
        assert item.backend == "cpu"
        assert results.find("trustworthiness", embedding=item.id)
    umap = next(item for item in results.embeddings if item.id == "umap-2")
    assert umap.parameters["seed"] == 42
    assert umap.parameters["n_neighbors"] == 5
    assert umap.seconds > 0
    assert results.versions["umap-learn"]


def test_baselines_without_runs(tmp_path, data):
    config = EvaluateConfig(
        data=data.path, out=tmp_path / "out", methods=("pca",), backend="cpu", report=False
    )
    results = evaluate(config)
    assert [item.id for item in results.embeddings] == ["pca-2", "pca-10"]


def test_command_lists_a_broken_run_and_exits_with_1(tmp_path, data, runs, capsys):
    torn = tmp_path / "torn"
    shutil.copytree(runs[1], torn, symlinks=True)
    weights = next(torn.glob("checkpoints/step-*/model.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    words = ["--data", data.path, "--runs", str(torn), str(runs[0]), "--out", str(tmp_path / "o")]
    words += ["--methods", "vae", "--backend", "cpu", "--report", "False", "--cpu", "True"]
    assert cli(["evaluate", *words, "--json", "True"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert [failure["run"] for failure in printed["failed"]] == [str(torn)]
    assert [line["embedding"] for line in printed["leaderboard"]] == ["vae-4-one"]
    assert cli(["evaluate", *words, "--protocol", "long"]) == 2
    assert "--protocol long" in capsys.readouterr().err
    assert cli(["evaluate", "--data", str(tmp_path)]) == 2
    assert "manifest.json" in capsys.readouterr().err


def test_atlas_holds_every_test_image_with_its_maps(evaluated, data, tmp_path):
    """Read back: PNGs of the images, the coordinates of the embeddings, KNN's predictions."""
    from pyarrow import parquet

    out, _, _ = evaluated
    names = write_atlas(out, data, tmp_path / "a" / "atlas.parquet")
    assert names == ["pca_2", "pca_10", "umap_2", "umap_10", "vae_4_one"]
    rows = parquet.read_table(tmp_path / "a" / "atlas.parquet").to_pylist()
    images, labels, index = digits().splits["test"]
    assert [row["index"] for row in rows] == index.tolist()
    assert [row["label"] for row in rows] == [str(label) for label in labels]
    png = Image.open(io.BytesIO(rows[7]["image"]["bytes"]), formats=["PNG"])
    assert np.array_equal(np.asarray(png), images[7, 0])
    points = read_arrays(out / "embeddings" / "umap-2.npz")["test"]
    assert [row["umap_2_y"] for row in rows] == points[:, 1].tolist()
    artifacts = read_arrays(out / "artifacts.npz")
    drawn_map = artifacts["map/vae-4-one"][:, 0]
    assert np.allclose([rows[at]["vae_4_one_x"] for at in artifacts["sample_position"]], drawn_map)
    right = sum(row["pca_10_predicted"] == row["label"] for row in rows)
    assert right == np.trace(artifacts["confusion/pca-10"]) > len(rows) / 2
    assert right == sum(not row["pca_10_wrong"] for row in rows)
    other = written(tmp_path / "other", drawn())
    with pytest.raises(UserError, match="is not the data that"):
        write_atlas(out, other, tmp_path / "b.parquet")


def test_run_of_another_shape_is_left_out(tmp_path, data):
    other = written(tmp_path / "other", drawn(shape=(1, 6, 6)))
    run = write_run(tmp_path / "small", other)
    config = EvaluateConfig(
        runs=(run,), data=data.path, out=tmp_path / "o", methods=("pca",), backend="cpu"
    )
    results = evaluate(dataclasses.replace(config, report=False))
    assert "trained on images 1x6x6, the data holds 1x8x8" in results.failed[0].error
    assert results.embeddings


def test_bench_finds_the_same_figures(data):
    """Both ways, each in a process of its own: not one of the accuracies differs."""
    config = BenchEvaluateConfig(data=data.path, train_images=600, umap=False, repeats=1)
    found = bench_evaluate(config)
    assert found["differences"]["knn_accuracy"] == 0
    # For so few images scikit-learn takes its randomized solver, unseeded: 1e-6 to 3e-6 seen.
    assert found["differences"]["explained_variance"] < 1e-5
    assert found["differences"]["cells"] > 10
    assert found["total_seconds"]["here"] > 0


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"protocol": "long"}, "--protocol long"),
        ({"methods": ("tsne",)}, "--methods tsne"),
        ({"dims": (0,)}, "--dims 0"),
        ({"repeats": 0}, "--repeats 0"),
        ({"backend": "gpu"}, "--backend gpu"),
    ],
)
def test_wrong_settings_are_named(flags, said):
    with pytest.raises(ValueError, match=said):
        EvaluateConfig(**flags)


def test_two_processes_encode_the_same_latents(tmp_path, data, runs):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = ["--data", data.path, "--runs", str(runs[0]), "--methods", "vae", "--backend", "cpu"]
    words += ["--report", "False", "--json", "True"]
    if torch.cuda.is_available():  # without one they are one world unasked
        words += ["--cpu", "True"]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    folders = []
    for count in (1, 2):
        out = tmp_path / str(count) / "out"
        command = [*launcher, "--nproc-per-node", str(count), "launch/evaluate.py", *words]
        done = subprocess.run(
            [*command, "--out", str(out)], capture_output=True, text=True, env=environment
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["failed"] == []
        folders.append(out)
    one, two = (read_arrays(out / "embeddings" / "vae-4-one.npz") for out in folders)
    assert np.array_equal(one["train"], two["train"])
    assert np.array_equal(one["test"], two["test"])
    rows = [[row.value for row in read_results(out).rows] for out in folders]
    assert rows[0] == rows[1]


def test_ranks_with_devices_of_their_own_find_each_others_parts(tmp_path, data, runs, monkeypatch):
    """As cuda:0 and cuda:1: two threads, two names of devices, one cache.

    They share UMAP and the figures too, and find what one process finds.
    """
    barrier = threading.Barrier(2, timeout=300)
    jobs = []
    share = Team._share
    monkeypatch.setattr(Team, "_share", lambda *args: jobs.append(args[1]) or share(*args))
    common = {"runs": (runs[0],), "data": data.path, "dims": (2, 3)}
    common |= {"methods": ("pca", "umap", "vae")}
    common |= {"backend": "cpu", "repeats": 1, "report": False}
    config = EvaluateConfig(**common, out=tmp_path / "two" / "o", fresh=True)

    def rank(number: int):
        world, device = World(number, 2), f"cpu:{number}"
        return evaluate(config, world=world, device=device, wait=barrier.wait)

    with ThreadPoolExecutor(2) as pool:
        results, nothing = pool.map(rank, range(2))
    assert nothing is None
    assert results.failed == []
    ids = [item.id for item in results.embeddings]
    assert ids == ["pca-2", "pca-3", "umap-2", "umap-3", "vae-4-one"]
    assert jobs == ["graph", "umap"]
    assert not [path for path in config.out.iterdir() if path.name.startswith(".")]
    measured = [s.embedding for s in results.stages if s.stage == "measure" and s.backend == "cpu"]
    assert measured == ["vae-4-one", "umap-3", "umap-2"]  # by this process; pca by the other one
    alone = evaluate(EvaluateConfig(**common, out=tmp_path / "one" / "o"))
    figures = [[(row.metric, row.value) for row in found.rows] for found in (results, alone)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_of_one_process_ends_all_of_them(tmp_path, data, runs, error, monkeypatch):
    """Of two processes the second one's disk is full: both end with its line, no run is missing."""
    write = of_runs.write_arrays

    def full(path, arrays):
        if "-1-2." in path.name:
            with files_of_user(f"{path}: cannot be written"):
                raise OSError(error, os.strerror(error))
        write(path, arrays)

    monkeypatch.setattr(of_runs, "write_arrays", full)
    common = {"runs": tuple(runs), "data": data.path, "methods": ("vae",), "backend": "cpu"}
    config = EvaluateConfig(**common, out=tmp_path / "o")
    with pytest.raises(UserError, match=os.strerror(error)) as second:
        evaluate(config, world=World(1, 2))
    line = str(second.value)
    with pytest.raises(UserError) as first:
        evaluate(config, world=World(0, 2), agree=lambda fault: fault or line)
    assert str(first.value) == line


def test_a_conditional_model_is_not_told_the_label(tmp_path, data):
    """Latents that knew the label could not be scored by how well they predict it."""
    run = load_run(write_run(tmp_path / "told", data, conditional=True))
    splits = open_splits(data, Cache(tmp_path / "cache"))
    images, labels = splits["test"].take(range(50)), splits["test"].labels[:50]
    told, plain = run.encode(images, labels)[0], run.encode(images)[0]
    assert not np.allclose(told, plain)  # it could be told
    settings = {"seed": 0, "nll_samples": 0, "nll_images": 1}
    found = join_parts([encode_part(run, splits, World(), **settings)])
    assert np.allclose(found["test/mu"][:50], plain, atol=1e-6)
    images = splits["train"].take(range(50))
    assert np.allclose(found["train/mu"][:50], run.encode(images)[0], atol=1e-6)


def test_figures_of_a_conditional_model_are_those_with_labels(tmp_path, data):
    """Its ELBO is that of an image with its label, as in training."""
    run = load_run(write_run(tmp_path / "told", data, conditional=True))
    splits = open_splits(data, Cache(tmp_path / "cache"))
    images, labels = splits["test"].take(range(50)), splits["test"].labels[:50]
    mu, logvar = run.encode(images, labels)
    found = join_parts([encode_part(run, splits, World(), seed=0, nll_samples=0, nll_images=1)])
    kl = (np.exp(logvar) + mu**2 - 1 - logvar).sum(1) / 2
    assert np.allclose(found["test/kl"][:50], kl, rtol=1e-4)


def test_the_search_for_neighbours_is_part_of_fitting_umap(tmp_path, data, monkeypatch):
    class Slow(StageTimer):
        @property
        def seconds(self):
            return 1000.0

        @seconds.setter
        def seconds(self, value):
            pass

    monkeypatch.setattr("evaluation.stages.StageTimer", Slow)
    words = {"data": data.path, "out": tmp_path / "o", "cache": tmp_path / "c", "backend": "cpu"}
    found = evaluate(EvaluateConfig(methods=("umap",), dims=(2,), report=False, **words))
    assert 1000 < found.embeddings[0].fit_seconds < 1100


def test_stages_are_counted_one_by_one_to_the_last(tmp_path, data, runs, capsys):
    words = ["evaluate", "--runs", str(runs[0]), "--data", data.path, "--methods", "pca", "vae"]
    words += ["--dims", "2", "10", "--out", str(tmp_path / "o"), "--backend", "cpu"]
    assert cli([*words, "--cache", str(tmp_path / "c"), "--report", "False"]) == 0
    ended = re.findall(r"\[(\d+)/(\d+)\] .* \d+\.\d s", capsys.readouterr().err)
    numbers, totals = zip(*((int(n), int(total)) for n, total in ended), strict=True)
    assert numbers == tuple(range(1, totals[0] + 1))
    assert len(set(totals)) == 1


def test_folders_that_cannot_be_written_cost_no_time_and_one_line(tmp_path, data, capsys):
    (tmp_path / "file").write_text("x")
    words = ["evaluate", "--data", data.path, "--methods", "pca", "--backend", "cpu"]
    for flags in (
        ["--out", str(tmp_path / "file")],
        ["--out", str(tmp_path / ("n" * 300))],
        ["--out", str(tmp_path / "o"), "--cache", str(tmp_path / "file" / "c")],
    ):
        assert cli([*words, *flags]) == 2
        said = capsys.readouterr().err
        assert f"{flags[-2]} {flags[-1]}: cannot be written" in said
        assert "Traceback" not in said


def test_a_tiny_strange_set_is_compared_and_every_blank_explained(tmp_path, capsys):
    """24 images, labels from 1, one class in the test images alone: the full protocol."""
    whole = digits().splits
    parts = {}
    for name, count in (("train", 24), ("test", 9)):
        images, labels, index = (array[:count] for array in whole[name])
        labels = np.where(labels == 9, 8, labels)
        if name == "test":
            labels[0] = 9
        parts[name] = Arrays(images, np.maximum(labels, 1), index)
    source = ArraySource(parts, [str(digit) for digit in range(10)], "tiny")
    tiny = written(tmp_path / "tiny", source, folds=2)
    run = write_run(tmp_path / "run", tiny)
    out = tmp_path / "out"
    words = ["--data", tiny.path, "--out", str(out), "--protocol", "full", "--backend", "cpu"]
    words += ["--dims", "2", "500", "--repeats", "2", "--nll-samples", "2", "--runs", str(run)]
    words += ["--methods", "raw", "pca", "vae", "vae_white", "ensemble"]
    assert cli(["evaluate", *words, "--atlas", str(tmp_path / "a.parquet")]) == 0
    printed = capsys.readouterr().out
    assert f"embedding-atlas {tmp_path}/a.parquet --image image --x pca_2_x --y pca_2_y" in printed
    assert "pca-500: not made: 24 training images of 64 pixels have 23 components" in printed
    results = read_results(out)
    assert [item.id for item in results.embeddings][:2] == ["raw-64", "pca-2"]
    assert [one.embedding for one in results.not_made] == ["pca-500", "ensemble"]
    assert all(row.note for row in results.rows if row.value is None)
    tests = results.find("knn_test_accuracy", embedding="pca-2", k=1)
    assert all("of classes without training images (9)" in row.note for row in tests)
    for row in results.rows:
        if "accuracy" in row.metric and row.ci_low is not None:
            assert 0 <= row.ci_low <= row.ci_high <= 1
    page = (out / "report.html").read_text()
    assert "What was not measured or not made, and why" in page


def test_world_of_three_covers_every_image_once(tmp_path, data, runs):

    run, splits = load_run(runs[0]), open_splits(data, Cache(tmp_path))
    settings = {"seed": 0, "nll_samples": 4, "nll_images": 100}
    whole = join_parts([encode_part(run, splits, World(), **settings)])
    parts = [encode_part(run, splits, World(rank, 3), **settings) for rank in range(3)]
    joined = join_parts(parts)
    assert whole.keys() == joined.keys()
    for name, array in whole.items():
        assert np.array_equal(array, joined[name]), name


@pytest.mark.skipif(torch.cuda.is_available(), reason="cuML may work here")
@pytest.mark.parametrize("rank", [0, 1])
def test_missing_cuml_ends_every_process(data, tmp_path, rank):
    """Were it the first one alone, the others would wait for it."""
    config = EvaluateConfig(data=data.path, out=tmp_path / "o", backend="cuml", report=False)
    with pytest.raises(ValueError, match="--backend cuml: cuML does not work here"):
        evaluate(config, world=World(rank, 2))
    assert not (tmp_path / "o").exists()
