"""Where stages run: choice, fallback, and the whole on cuML's stand-in."""

import numpy as np
import pytest

from data_pipeline.order import World
from evaluation.backends import cuml as backends_cuml
from evaluation.backends import search as backends_search
from evaluation.backends.choose import Backends
from evaluation.backends.cpu import CpuBackend, UmapSettings, fit_umap
from evaluation.backends.cuml import CumlBackend
from evaluation.backends.search import neighbour_graph
from evaluation.cache import Cache
from evaluation.embeddings import Methods
from evaluation.items import METHODS, Latents
from evaluation.measures.measure import Measure
from evaluation.measures.protocol import Points, make_protocol
from evaluation.pixels import Pixels
from tests.cuml import double

RNG = np.random.default_rng(0)


def blobs(n: int, d: int = 12, classes: int = 3):
    labels = np.arange(n) % classes
    return (RNG.normal(size=(n, d)) + 4 * labels[:, None]).astype(np.float32), labels


def stand_in() -> CumlBackend:
    return CumlBackend(double.load)


def test_auto_without_cuml_says_why():
    def missing():
        raise ModuleNotFoundError("No module named 'cupy'")

    backends = Backends("auto", make_cuml=missing)
    assert backends.describe()["used"] == "cpu"
    assert "No module named 'cupy'" in backends.reason
    with pytest.raises(ValueError, match="--backend cuml: cuML does not work here"):
        Backends("cuml", make_cuml=missing)


def test_importable_cuml_that_cannot_compute_is_not_taken():
    class NoDevice(CumlBackend):
        def pca(self, train, components):
            raise RuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")

    backends = Backends("auto", make_cuml=lambda: NoDevice(double.load))
    assert backends.used == "cpu"
    assert "cudaErrorNoDevice" in backends.reason


@pytest.mark.slow
def test_a_stage_that_fails_falls_back_alone_and_says_so_once():
    class NoMemory(CumlBackend):
        def trustworthiness(self, *arguments):
            raise MemoryError("std::bad_alloc: out_of_memory")

    lines: list[str] = []
    backends = Backends("auto", tell=lines.append, make_cuml=lambda: NoMemory(double.load))
    train, _ = blobs(120)
    graph, where, note = backends.run("graph", train, train[:9], 5, 0)
    assert (where, note) == ("cuml", None)
    rows = backends.put(train)  # lies on the device: the CPU must fetch it
    for _ in range(2):
        value, where, note = backends.run("trustworthiness", rows, rows, 5)
        assert (value, where) == (1.0, "cpu")
        assert "out_of_memory" in note
    host = backends.to_host(graph)
    assert isinstance(host.train_index, np.ndarray)
    assert len(lines) == 1
    assert backends.describe()["fallbacks"] == lines
    strict = Backends("cuml", make_cuml=lambda: NoMemory(double.load))
    with pytest.raises(ValueError, match="--backend cuml: trustworthiness failed"):
        strict.run("trustworthiness", rows, rows, 5)


@pytest.mark.slow
def test_every_method_and_figure_runs_on_the_stand_in(tmp_path):
    backends = Backends("cuml", make_cuml=stand_in)
    stages = backends.stages()
    stages.device = "cpu"  # the timer has no device to ask
    (train, labels), (test, test_labels) = blobs(300), blobs(90)
    methods = Methods(
        backends,
        stages,
        Cache(tmp_path),
        Pixels(train),
        Pixels(test),
        data_key="d",
        dims=(2, 4),
        seed=0,
    )
    latents = [Latents(name, train[:, :5], test[:, :5], name) for name in "ab"]
    sample = np.arange(60)
    protocol = make_protocol("full", 0, 2)
    measure = Measure(protocol, backends, backends.put(test[sample]), sample)
    seen = set()
    for item in methods.embeddings(METHODS, latents):
        seen.add(item.embedding.method)
        assert isinstance(item.train, double.DeviceArray), item.embedding.id
        assert item.train.shape == (300, item.embedding.dim)
        points = Points(item.train, item.test, labels, test_labels, 3)
        rows = list(measure.figures(points))
        by_metric = {row["metric"]: row for row in rows}
        assert by_metric["knn_test_accuracy"]["backend"] == "cuml"
        assert by_metric["trustworthiness"]["backend"] == "cuml"
        assert by_metric["knn_all_test_accuracy"]["value"] > 0.9
        how, shown, _ = methods.flat_map(item, sample, sample)
        assert shown.shape == (60, 2)
        assert isinstance(shown, np.ndarray)
        assert how == ("itself" if item.embedding.dim == 2 else "pca")
    assert seen == set(METHODS)
    assert backends.describe()["fallbacks"] == []


def test_stages_agree_between_backends(monkeypatch):
    train, _ = blobs(200)
    test, _ = blobs(40)
    cpu, gpu = CpuBackend(), stand_in()
    ours, theirs = cpu.pca(train, 3), gpu.pca(train, 3)
    assert np.allclose(ours.axes, theirs.axes.get(), atol=1e-4)  # the same signs, too
    assert np.allclose(ours.variance_ratio, theirs.variance_ratio, atol=1e-5)
    for a, b in zip(cpu.standardise(train, test), gpu.standardise(train, test), strict=True):
        assert np.allclose(a, b.get(), atol=1e-4)
    mine, other = cpu.graph(train, test, 5, 0), gpu.graph(train, test, 5, 0)
    assert np.array_equal(mine.train_index, other.train_index)
    assert np.allclose(mine.train_distance, other.train_distance, atol=1e-4)
    assert np.array_equal(mine.test_index, other.test_index)
    assert np.allclose(mine.test_distance, other.test_distance, atol=1e-4)
    monkeypatch.setattr(backends_cuml, "AT_ONCE", 300)
    assert np.array_equal(cpu.search(train, test, 7), gpu.search(train, test, 7))
    monkeypatch.setattr(backends_search, "EXACT_BELOW", 0)  # several cells, also of few images
    monkeypatch.setattr(backends_search, "IMAGES_A_CELL", 40)
    layout = cpu.layout(train, test, 0)
    parts = [gpu.graph_part(train, test, 5, layout, World(rank, 2), 0) for rank in range(2)]
    shared = backends_search.join_graph(parts, layout)
    assert len(layout["order"]) == 5
    assert shared.note.startswith("all pairs")
    assert np.array_equal(shared.test_index, other.test_index)


def test_pca_is_exact():
    from sklearn.decomposition import PCA

    train, _ = blobs(500, 20)
    reference = PCA(4, svd_solver="full").fit(train)
    pca = CpuBackend().pca(train, 4)
    assert np.allclose(pca.variance_ratio, reference.explained_variance_ratio_, atol=1e-6)
    turned = np.abs(np.sum(pca.axes * reference.components_, axis=1))
    assert np.allclose(turned, 1, atol=1e-4)
    largest = np.abs(pca.axes).argmax(1)
    assert (pca.axes[np.arange(4), largest] > 0).all()


@pytest.mark.slow
def test_graph_gives_umap_what_its_own_search_would():
    """With the same neighbours, umap on row numbers equals umap on the rows, bit for bit."""
    import umap

    train, _ = blobs(150)
    graph = neighbour_graph(train, train[:10] + 0.01, 5, seed=0)
    ours, transformed, *seconds = fit_umap(UmapSettings(dim=2, seed=3), graph)
    reference = umap.UMAP(
        n_neighbors=5,
        init="random",
        random_state=3,
        n_jobs=1,
        precomputed_knn=(graph.train_index, graph.train_distance),
    ).fit_transform(train)
    assert np.array_equal(ours, reference)
    assert transformed.shape == (10, 2)
    assert min(seconds) > 0
    again, *_ = fit_umap(UmapSettings(dim=2, seed=3), graph)
    assert np.array_equal(ours, again)


@pytest.mark.slow
def test_dimensions_in_threads_are_those_made_one_by_one():
    """The layout lets go of Python's lock, and that changes no number."""
    from umap import layouts

    train, _ = blobs(150)
    graph = neighbour_graph(train, train[:10] + 0.01, 5, seed=0)
    wanted = [UmapSettings(dim=dim, seed=3) for dim in (2, 3)]
    found = CpuBackend().umap(train, train[:10], graph, wanted)
    assert layouts._nb_optimize_layout_euclidean_single_epoch.targetoptions["nogil"]
    for settings, pair in zip(wanted, found, strict=True):
        for one, other in zip(pair[:2], fit_umap(settings, graph)[:2], strict=True):
            assert np.array_equal(one, other)
