"""Samples, intervals, latent-space figures, cache and records."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import UserError
from evaluation.backends.choose import Backends
from evaluation.cache import Cache
from evaluation.files import read_arrays, write_arrays
from evaluation.measures.latents import (
    emptiness,
    lines,
    pairs_of,
    posterior_figures,
    sliced_distance,
    smoothness,
)
from evaluation.measures.measure import Measure
from evaluation.measures.protocol import Points, make_protocol
from evaluation.results.files import read_results, write_results
from evaluation.results.leaderboard import leaderboard
from evaluation.results.records import Embedding, Results, Row
from evaluation.sampling import folds, interval, stratified_rows, wilson

RNG = np.random.default_rng(0)


def test_samples_are_stratified_nested_and_repeatable():
    labels = RNG.integers(0, 5, 1000)
    small, large = (stratified_rows(labels, n, 0) for n in (20, 50))
    assert np.bincount(labels[small]).tolist() == [20] * 5
    assert set(small) < set(large)
    assert np.array_equal(small, stratified_rows(labels, 20, 0))
    assert not np.array_equal(small, stratified_rows(labels, 20, 0, repeat=1))
    with pytest.raises(ValueError, match="the rarest class"):
        stratified_rows(labels, 900, 0)


def test_folds_are_the_seeds():
    from sklearn.model_selection import StratifiedKFold

    labels = np.repeat(np.arange(3), 20)
    expected = StratifiedKFold(5, shuffle=True, random_state=42).split(labels, labels)
    for (a, b), (c, d) in zip(folds(labels), expected, strict=True):
        assert np.array_equal(a, c)
        assert np.array_equal(b, d)


def test_interval_is_students():
    from scipy.stats import t

    values = [0.7, 0.72, 0.74]
    found = interval(values)
    half = t.ppf(0.975, 2) * np.std(values, ddof=1) / 3**0.5
    assert found["ci_low"] == pytest.approx(0.72 - half)
    assert found["ci_high"] == pytest.approx(0.72 + half)
    assert interval([0.5]) == {"value": 0.5, "repeats": 1, "values": [0.5]}


def test_grid_equals_the_seeds_loop():
    from sklearn.neighbors import KNeighborsClassifier

    labels = np.arange(900) % 3
    rows = (RNG.normal(size=(900, 4)) + labels[:, None]).astype(np.float32)
    points = Points(rows, rows[:90], labels, labels[:90], 3)
    measure = Measure(make_protocol("article2018", 7, 1), Backends("cpu"), rows[:60], np.arange(60))
    cells = {
        (f["labels_per_class"], f["k"], f["weights"]): f["value"]
        for f in measure.figures(points)
        if f["metric"] == "knn_cv_accuracy" and f["value"] is not None
    }
    assert {weights for _, _, weights in cells} == {"uniform", "distance"}
    for (count, k, weights), value in cells.items():
        if count != 100:
            continue
        sample = stratified_rows(labels, count, 7)
        scores = []
        for fit, score in folds(labels[sample]):
            knn = KNeighborsClassifier(k, weights=weights)
            knn.fit(rows[sample][fit].astype(np.float64), labels[sample][fit])
            found = knn.predict(rows[sample][score].astype(np.float64))
            scores.append((found == labels[sample][score]).mean())
        assert value == sum(scores) / 5


@pytest.mark.parametrize(("per_class", "repeats"), [(40, 1), (41, 3)])
def test_a_sample_of_all_labels_has_the_interval_of_its_test_images(per_class, repeats):
    """Where every sample is the whole set, five of them would agree and say nothing of chance."""
    labels = np.repeat([0, 1], [40, per_class])
    rows = (RNG.normal(size=(len(labels), 3)) + labels[:, None]).astype(np.float32)
    points = Points(rows, rows, labels, labels, 2)
    measure = Measure(make_protocol("quick", 0, 3), Backends("cpu"), rows, np.arange(len(rows)))
    tests = [f for f in measure.knn_figures(points) if f["metric"] == "knn_test_accuracy"]
    assert {figure["repeats"] for figure in tests} == {repeats}
    assert all(("std" in figure) == (repeats > 1) for figure in tests)
    if repeats == 1:
        for figure in tests:
            assert (figure["ci_low"], figure["ci_high"]) == wilson(figure["value"], len(labels))


@pytest.mark.parametrize(("right", "count"), [(0, 10), (10, 10), (7, 10), (950, 1000)])
def test_the_interval_of_a_share_is_wilsons(right, count):
    """As scipy computes it; at 0 and 1 it stays within them and is no point."""
    from scipy.stats import binomtest

    expected = binomtest(right, count).proportion_ci(0.95, method="wilson")
    found = wilson(right / count, count)
    assert found == pytest.approx((expected.low, expected.high), abs=1e-6)
    assert 0 <= found[0] < found[1] <= 1


def test_sliced_distance_of_the_prior_itself_is_small():
    z = RNG.normal(size=(5000, 8))
    assert sliced_distance(z, np.random.default_rng(1)) < 0.05
    assert sliced_distance(z + 2, np.random.default_rng(1)) > 0.5


def test_posterior_figures_count_active_units():
    mu = np.zeros((2000, 3), np.float32)
    mu[:, 0] = RNG.normal(size=2000)
    latents = {"test/mu": mu, "test/logvar": np.full_like(mu, -9), "test/kl_dim": np.abs(mu)}
    rows = list(posterior_figures(latents, 0))
    by_metric = {row["metric"]: row["value"] for row in rows if row["metric"] != "kl_by_latent"}
    assert by_metric["active_units"] == 1
    by_latent = [row["value"] for row in rows if row["metric"] == "kl_by_latent"]
    assert np.allclose(by_latent, np.abs(mu).mean(0))


def test_gap_is_the_largest_distance_on_a_line_over_the_usual_one():
    """Two islands at 0..1 and 11..12: the middle of a line, 6, is 5 away; test images .25."""
    train = np.array([[0.0], [1.0], [11.0], [12.0]], np.float32)
    test = np.array([[0.25], [11.75]], np.float32)
    (row,) = emptiness(train, test, np.array([0, 1]), seed=0)
    assert row["value"] == pytest.approx(5 / 0.25)


def test_gap_tells_islands_from_a_continuous_cloud():
    labels = np.arange(600) % 3
    cloud = RNG.uniform(size=(600, 2))
    islands = 0.05 * cloud + 10 * np.stack([labels == 1, labels == 2], 1)
    gaps = [
        next(emptiness(points[:500], points[500:], labels[500:], 0))["value"]
        for points in (cloud, islands)
    ]
    assert gaps[0] < 10 < gaps[1]


@pytest.mark.parametrize(("pixels", "lines"), [(784, 100), (3 * 256**2, 37), (3 * 512**2, 10)])
def test_fewer_lines_are_decoded_of_large_images(pixels, lines):
    rng = np.random.default_rng(0)
    decoded = []

    def decode(z):
        decoded.append(len(z))
        return z

    mu, labels = rng.standard_normal((500, 3)), rng.integers(0, 3, 500)
    rows = list(smoothness(decode, mu, labels, 0, pixels))
    assert sum(decoded) == 9 * lines
    assert max(decoded) <= 90
    assert {row["note"] for row in rows} == {f"{lines} lines between classes"}


def test_smoothness_of_a_linear_decoder_is_one():
    labels, mu = np.arange(200) % 4, RNG.normal(size=(200, 3)).astype(np.float32)
    matrix = RNG.normal(size=(3, 20))
    found = {row["metric"]: row["value"] for row in smoothness(lambda z: z @ matrix, mu, labels, 0)}
    assert found["interpolation_length"] == pytest.approx(1, abs=1e-4)
    assert found["interpolation_jump"] == pytest.approx(1, abs=1e-4)

    jumpy = {row["metric"]: row["value"] for row in smoothness(lambda z: np.sign(z), mu, labels, 0)}
    assert jumpy["interpolation_jump"] > 2


def test_lines_join_images_of_different_classes():
    labels = np.arange(100) % 4
    first, second = pairs_of(labels, 0)
    assert (labels[first] != labels[second]).all()
    points = RNG.normal(size=(100, 3)).astype(np.float32)
    along = lines(points, first, second)
    assert np.allclose(along[:, 0], points[first])
    assert np.allclose(along[:, -1], points[second])


def test_cache_keeps_by_content_and_survives_damage(tmp_path):
    cache = Cache(tmp_path)
    key = Cache.key("a", {"b": (1, 2)})
    assert key == Cache.key("a", {"b": [1, 2]}) != Cache.key("a", {"b": [2, 1]})
    assert cache.arrays("x", key) is None
    cache.keep_arrays("x", key, {"m": np.arange(3)})
    assert cache.arrays("x", key)["m"].tolist() == [0, 1, 2]
    assert Cache(tmp_path, fresh=True).arrays("x", key) is None
    (tmp_path / f"x-{key}.npz").write_bytes(b"PK\x03\x04 cut")
    assert cache.arrays("x", key) is None


def test_a_changed_digit_in_the_cache_is_noticed(tmp_path):
    """A record, an array, a file under another's name, a shape, a NaN: computed again, and said."""
    told: list[str] = []
    cache = Cache(tmp_path, tell=told.append)
    cache.keep_record("figures", "a", [{"value": 0.8131}])
    assert cache.record("figures", "a") == [{"value": 0.8131}]
    path = tmp_path / "figures-a.json"
    path.write_text(path.read_text().replace("0.8131", "0.9131"))
    assert cache.record("figures", "a") is None
    assert "figures-a.json: another content than was written; computed again" in told.pop()

    cache.keep_arrays("mu", "a", {"mu": np.arange(4.0)})
    (tmp_path / "mu-b.npz").write_bytes((tmp_path / "mu-a.npz").read_bytes())
    assert cache.arrays("mu", "b") is None
    arrays = read_arrays(tmp_path / "mu-a.npz")
    write_arrays(tmp_path / "mu-a.npz", arrays | {"mu": np.array([0.0, 1, 2, 4])})
    assert cache.arrays("mu", "a") is None

    cache.keep_arrays("mu", "a", {"mu": np.array([0, np.nan])})
    assert cache.arrays("mu", "a") is not None
    assert cache.arrays("mu", "a", {"mu": (3,)}) is None
    assert cache.arrays("mu", "a", {"mu": (None,)}) is None
    assert "mu is not finite" in told.pop()
    assert cache.arrays("mu", "a", {"logvar": (None,)}) is None


def results() -> Results:
    common = {"dataset": "d", "method": "pca", "metric": "knn_test_accuracy", "weights": "uniform"}
    return Results(
        dataset="d",
        data_fingerprint="f",
        image_shape=[1, 2, 2],
        classes=["a", "b"],
        counts={"train": 4, "test": 2},
        protocol="quick",
        seed=0,
        backend={"used": "cpu"},
        versions={},
        embeddings=[
            Embedding(id=f"pca-{dim}", method="pca", dim=dim, title=f"PCA {dim}") for dim in (2, 3)
        ],
        rows=[
            Row(**common, dim=2, embedding="pca-2", k=1, value=0.5),
            Row(**common, dim=2, embedding="pca-2", k=5, value=0.6, ci_low=0.55, ci_high=0.65),
            Row(**common, dim=3, embedding="pca-3", k=1, value=0.7),
            Row(dataset="d", method="pca", dim=3, metric="elbo", value=float("nan")),
        ],
    )


def test_results_are_written_and_read_back(tmp_path):
    write_results(tmp_path, results())
    raw = json.loads((tmp_path / "results.json").read_text())
    assert raw["schema"] == 1
    assert raw["rows"][-1]["value"] is None  # JSON knows no NaN
    again = read_results(tmp_path)
    assert again.rows[1] == results().rows[1]
    assert [line["embedding"] for line in leaderboard(again)] == ["pca-3", "pca-2"]
    assert leaderboard(again)[1]["k"] == 5
    (tmp_path / "results.json").write_text('{"schema": 0}')
    with pytest.raises(ValueError, match="another version"):
        read_results(tmp_path)


def test_arrays_with_objects_are_refused(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, bad=np.array([{}], dtype=object))
    with pytest.raises(UserError, match="allow_pickle"):
        read_arrays(path)


def test_arrays_that_lie_are_refused_before_memory_is_taken(tmp_path):
    """A header that promises a terabyte; a bomb; a torn file; every single byte turned round."""
    path = tmp_path / "a.npz"
    write_arrays(path, {"a": np.arange(6).reshape(2, 3)})
    good = path.read_bytes()
    path.write_bytes(good.replace(b"(2, 3)", b"(1e12)"[:6]))
    with pytest.raises(UserError, match=r"a\.npz: a: damaged arrays"):
        read_arrays(path)
    np.savez_compressed(path, a=np.zeros(10**7))
    with pytest.raises(UserError, match="not written by vae-dist"):
        read_arrays(path)
    for place in range(len(good)):
        for content in (
            good[:place],
            good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :],
        ):
            path.write_bytes(content)
            try:
                read_arrays(path)
            except UserError:
                pass
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        read_arrays(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: raw["rows"][0].update(value="0.5"), r"rows\[0\].value is \"0.5\""),
        (lambda raw: raw["embeddings"][0].update(dim=None), r"embeddings\[0\].dim is null"),
        (lambda raw: raw.update(rows=3), "rows is 3, expected a list"),
        (lambda raw: raw.pop("counts"), "counts is missing"),
        (lambda raw: raw.update(image_shape=[28]), "image_shape"),
        (lambda raw: raw["embeddings"].append(raw["embeddings"][0]), "stands there twice"),
        (lambda raw: raw["embeddings"][0].update(id="../x"), "is no name"),
    ],
)
def test_damaged_results_are_named(tmp_path, change, said):
    write_results(tmp_path, results())
    path = tmp_path / "results.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    with pytest.raises(UserError, match=said):
        read_results(tmp_path)


def test_files_that_cannot_be_written_are_the_users(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "a.npz", tmp_path / ("n" * 300), Path("/proc/x/a.npz")):
        with pytest.raises(UserError, match="cannot be written"):
            write_arrays(path, {"a": np.zeros(1)})
    if Path("/dev/full").exists():  # no room
        monkeypatch.setattr("data_pipeline.files.secrets.token_hex", lambda size: "half")
        full = tmp_path / ".b.npz.half"
        full.symlink_to("/dev/full")
        with pytest.raises(UserError, match=r"b\.npz: cannot be written \(No space left on device"):
            write_arrays(tmp_path / "b.npz", {"a": np.zeros(10**5)})
        assert not full.exists()
