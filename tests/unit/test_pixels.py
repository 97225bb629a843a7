"""Images in parts, and PCA of rows that are never all in memory."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from evaluation import pixels
from evaluation.backends import pca as solvers
from evaluation.backends.choose import Backends
from evaluation.backends.pca import fit_pca
from evaluation.cache import Cache
from evaluation.embeddings import Methods
from evaluation.images import open_splits
from evaluation.measures.protocol import reference_rows
from evaluation.pixels import Pixels
from tests.data_folders import digits, written

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "digits"
    return written(folder, digits(), samples_per_shard=200, block_size=32)


@pytest.fixture
def splits(data, tmp_path):
    return open_splits(data, Cache(tmp_path))


def test_images_come_in_the_order_of_the_source_however_they_lie(splits):
    """Training images are written mixed; val is among them."""
    train, source = splits["train"], digits().splits["train"]
    assert np.array_equal(train.labels, source.labels)
    rows = RNG.permutation(len(train))[:40]
    assert np.array_equal(train.take(rows), source.images[rows])
    found = np.zeros_like(source.images)
    parts = train.parts(5000)
    assert len(parts) > 10
    for part in parts:
        rows, images = train.read(part)
        assert images.nbytes <= 5000
        found[rows] = images
    assert np.array_equal(found, source.images)


def test_labels_are_read_once(data, tmp_path, monkeypatch):
    open_splits(data, Cache(tmp_path))
    monkeypatch.setattr(type(data), "read_blocks", lambda *_: pytest.fail("read again"))
    open_splits(data, Cache(tmp_path))


def spread(n: int, d: int) -> np.ndarray:
    """Rows with a few strong directions and noise, off centre, as images are."""
    strong = RNG.normal(size=(n, 6)) * [9, 7, 5, 4, 3, 2]
    noise = 0.1 * RNG.normal(size=(n, d))
    return (strong @ RNG.normal(size=(6, d)) / d**0.5 + noise + 0.5).astype(np.float32)


@pytest.mark.parametrize(
    ("rows", "limits", "solver"),
    [
        (spread(300, 40), {}, "covariance"),
        (spread(40, 300), {"WIDEST": 100}, "inner products"),
        (spread(200, 300), {"WIDEST": 100, "HELD_BYTES": 4 * 80 * 300}, "inner products"),
        (spread(200, 300), {"WIDEST": 100, "HELD_BYTES": 0}, "inner products"),
        (spread(200, 300), {"WIDEST": 100, "MOST_ROWS": 100}, "randomized"),
    ],
)
def test_every_solver_equals_scikit_learns_pca(rows, limits, solver, monkeypatch):
    for name, value in limits.items():
        monkeypatch.setattr(solvers, name, value)
    monkeypatch.setattr(pixels, "PART_BYTES", 4 * 37 * rows.shape[1])  # 37 rows at a time
    found = fit_pca(Pixels(rows), 5)
    assert solver in found.solver
    true = PCA(5, svd_solver="full").fit(rows.astype(np.float64))
    assert np.allclose(found.variance_ratio, true.explained_variance_ratio_, rtol=1e-4)
    assert np.allclose(np.abs((found.axes * true.components_).sum(1)), 1, atol=1e-4)
    assert (found.axes[np.arange(5), np.abs(found.axes).argmax(1)] > 0).all()
    assert np.allclose(found.axes @ found.axes.T, np.eye(5), atol=1e-5)
    assert np.allclose(found.mean, rows.mean(0), atol=1e-6)


@pytest.mark.parametrize(("held", "reads"), [(6, 6), (2, 6 + 4 + 2)])
def test_inner_products_read_each_part_once_for_every_fill_of_memory(held, reads, monkeypatch):
    rows, read = spread(60, 300), Pixels.read
    monkeypatch.setattr(solvers, "WIDEST", 100)
    monkeypatch.setattr(pixels, "PART_BYTES", 4 * 10 * 300)
    monkeypatch.setattr(solvers, "HELD_BYTES", 4 * 10 * 300 * held)
    calls = []
    monkeypatch.setattr(Pixels, "read", lambda self, part: calls.append(part) or read(self, part))
    fit_pca(Pixels(rows), 5)
    mean_and_axes = 2 * 6
    assert len(calls) == mean_and_axes + reads


@pytest.mark.slow
def test_pixels_too_many_for_memory_give_the_same_pca_and_umap_of_its_components(
    splits, tmp_path, monkeypatch
):
    def made() -> tuple[Methods, dict]:
        methods = Methods(
            Backends("cpu"), Backends("cpu").stages(), Cache(tmp_path / "c", fresh=True),
            Pixels(splits["train"]), Pixels(splits["test"]), data_key="d", dims=(2,), seed=0,
        )  # fmt: skip
        wanted = ("raw", "pca", "umap")
        return methods, {item.embedding.id: item for item in methods.embeddings(wanted, [])}

    methods, whole = made()
    assert whole["umap-2"].embedding.parameters["of"] == "pixels"
    monkeypatch.setattr(pixels, "SMALL_BYTES", 1000)
    monkeypatch.setattr("evaluation.embeddings.MOST_RAW_BYTES", 1000)
    monkeypatch.setattr(Pixels, "whole", lambda self: pytest.fail("all pixels in memory"))
    methods, streamed = made()
    for name in ("train", "test"):
        one, two = (getattr(items["pca-2"], name) for items in (whole, streamed))
        assert np.allclose(one, two, atol=1e-4)
    assert "first 50 principal components" in streamed["umap-2"].embedding.parameters["of"]
    assert methods.not_made[0].embedding == "raw-64"
    assert "pixels take" in methods.not_made[0].reason


def test_fewer_large_images_are_compared_by_their_neighbourhoods():
    assert len(reference_rows(10_000, 784, 0)) == 3000
    large = len(reference_rows(10_000, 3 * 256 * 256, 0))
    assert large * 4 * 3 * 256 * 256 <= 256 << 20
