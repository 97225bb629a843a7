"""One search serves every k: the same answers as scikit-learn's, to the last digit."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from data_pipeline.order import World
from evaluation.backends import search
from evaluation.backends.search import join_graph, lay_out, neighbour_graph, search_part
from evaluation.backends.voting import Neighbours

KS = (1, 5, 10, 25, 50)


def ordinary(rng):
    return rng.normal(size=(400, 10)), rng.normal(size=(300, 10))


def on_a_grid(rng):  # many equal distances and equal points
    return rng.integers(0, 4, (400, 2)).astype(float), rng.integers(0, 4, (300, 2)).astype(float)


def with_duplicates(rng):
    fit = rng.normal(size=(400, 10)).astype(np.float32)
    return np.concatenate([fit[:200], fit[:200]]), np.concatenate([fit[:150], fit[200:350]])


def far_from_the_origin(rng):
    return 1e4 + rng.normal(size=(400, 10)), 1e4 + rng.normal(size=(300, 10))


def pixels(rng):
    return rng.integers(0, 256, (400, 64)) / 255, rng.integers(0, 256, (300, 64)) / 255


@pytest.mark.parametrize("weights", ["uniform", "distance"])
@pytest.mark.parametrize(
    "points", [ordinary, on_a_grid, with_duplicates, far_from_the_origin, pixels]
)
def test_equal_to_sklearn(points, weights):
    rng = np.random.default_rng(0)
    fit, queries = points(rng)
    labels = rng.integers(0, 10, len(fit))
    found = Neighbours(fit, labels, queries, k=50, classes=10)
    for k, predicted in zip(KS, found.predictions(KS, weights), strict=True):
        reference = KNeighborsClassifier(n_neighbors=k, weights=weights)
        reference.fit(fit.astype(np.float64), labels)
        assert np.array_equal(predicted, reference.predict(queries.astype(np.float64))), k


@pytest.mark.parametrize("weights", ["uniform", "distance"])
def test_probabilities_equal_sklearn(weights):
    rng = np.random.default_rng(1)
    fit, queries = ordinary(rng)
    labels = rng.integers(0, 10, len(fit))
    reference = KNeighborsClassifier(n_neighbors=25, weights=weights).fit(fit, labels)
    found = Neighbours(fit, labels, queries, k=50, classes=10).probabilities(25, weights)
    assert np.allclose(found, reference.predict_proba(queries), atol=1e-12)


def test_fewer_points_than_neighbours():
    rng = np.random.default_rng(2)
    fit = rng.normal(size=(7, 3))
    labels = np.arange(7) % 2
    found = Neighbours(fit, labels, fit, k=50, classes=2)
    assert found.k == 7
    assert found.predictions([7], "uniform").tolist() == [[0] * 7]


def test_graph_of_a_small_set_is_exact_and_knows_itself():
    rng = np.random.default_rng(3)
    train = rng.normal(size=(200, 8)).astype(np.float32)
    train[100:110] = train[:10]  # duplicates: each is still first among its own
    graph = neighbour_graph(train, train[:5], 6, seed=0)
    assert np.array_equal(graph.train_index[:, 0], np.arange(200))
    assert (graph.train_distance[:, 0] == 0).all()
    from sklearn.neighbors import NearestNeighbors

    distance, _ = NearestNeighbors(n_neighbors=6, algorithm="brute").fit(train).kneighbors(train)
    assert np.allclose(graph.train_distance, distance, atol=2e-3)
    assert graph.recall == 1.0


def test_graph_in_cells_measures_what_it_missed(monkeypatch):
    monkeypatch.setattr(search, "EXACT_BELOW", 100)
    rng = np.random.default_rng(4)
    # Points near a plane within 20 dimensions, as images are near a manifold.
    plane = rng.normal(size=(2, 20))
    train = (rng.normal(size=(3000, 2)) @ plane + 0.01 * rng.normal(size=(3000, 20))).astype("f4")
    graph = neighbour_graph(train, train[:50], 5, seed=0, probes=6)
    exact = ((train[:200, None] - train[None]) ** 2).sum(2).argsort(1)[:, :5]
    hits = [len(set(a) & set(b)) for a, b in zip(exact, graph.train_index, strict=False)]
    assert graph.recall > 0.95
    assert abs(np.mean(hits) / 5 - graph.recall) < 0.05
    again = neighbour_graph(train, train[:50], 5, seed=0, probes=6)
    assert np.array_equal(graph.train_index, again.train_index)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_processes_find_the_graph_of_one_bit_for_bit(size, monkeypatch):
    """Each searches its share of the images against all training images."""
    monkeypatch.setattr("evaluation.backends.search.EXACT_BELOW", 900)
    rng = np.random.default_rng(0)
    train = rng.normal(size=(1500, 8)).astype(np.float32)
    test = rng.normal(size=(90, 8)).astype(np.float32)
    layout = lay_out(train, test, seed=0, probes=2)
    parts = [search_part(train, test, 5, layout, World(rank, size), seed=0) for rank in range(size)]
    shares = [len(part["train/rows"]) for part in parts]
    assert sum(shares) == len(train)
    assert max(shares) < 1.4 * min(shares)
    graph = join_graph(parts, layout)
    whole = neighbour_graph(train, test, 5, seed=0, probes=2)
    for name in ("train_index", "train_distance", "test_index", "test_distance"):
        assert getattr(graph, name).tobytes() == getattr(whole, name).tobytes()
    assert 0.5 < graph.recall == whole.recall < 1
    assert f"recall {graph.recall:.4f}" in graph.note
