"""Against the real cuML, on a machine without a GPU: run by tests/cuml/run.sh alone."""

import importlib
import inspect
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("cuml", reason="make test-cuml installs it in an environment of its own")

from evaluation.backends.choose import Backends
from evaluation.backends.cpu import UmapSettings
from evaluation.backends.cuml import CumlBackend
from tests.cuml import double


class Bound:
    """The double, each call of which must bind to the real signature."""

    def __init__(self, real: type, fake: type, seen: list[str]) -> None:
        self.real, self.fake, self.seen = real, fake, seen

    def __call__(self, *args, **kwargs):
        inspect.signature(self.real.__init__).bind(None, *args, **kwargs)
        self.seen.append(self.real.__name__)
        return BoundObject(self.real, self.fake(*args, **kwargs), self.seen)


class BoundObject:
    def __init__(self, real: type, fake, seen: list[str]) -> None:
        self._real, self._fake, self._seen = real, fake, seen

    def __getattr__(self, name):
        value = getattr(self._fake, name)
        if not inspect.ismethod(value):
            return value

        def call(*args, **kwargs):
            inspect.signature(getattr(self._real, name)).bind(None, *args, **kwargs)
            self._seen.append(f"{self._real.__name__}.{name}")
            result = value(*args, **kwargs)
            return self if result is self._fake else result

        return call


def bound_modules(seen: list[str]):
    def load(name: str):
        fake = double.MODULES[name]
        if name in ("cupy", "cuml"):
            importlib.import_module(name)
            return fake
        real = importlib.import_module(name)
        made = {}
        for attribute, value in vars(fake).items():
            original = getattr(real, attribute)
            if inspect.isclass(value):
                made[attribute] = Bound(original, value, seen)
            else:

                def call(*args, _real=original, _fake=value, **kwargs):
                    inspect.signature(_real).bind(*args, **kwargs)
                    seen.append(_real.__name__)
                    return _fake(*args, **kwargs)

                made[attribute] = call
        return SimpleNamespace(**made)

    return load


def test_every_call_binds_to_the_real_signatures():
    seen: list[str] = []
    backend = CumlBackend(bound_modules(seen))
    rows = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)
    backend.probe()
    backend.standardise(rows, rows)
    graph = backend.graph(rows, rows[:20], 5, 0)
    backend.umap(rows, rows[:20], graph, [UmapSettings(dim=2)])
    backend.search(rows, rows, 3)
    backend.trustworthiness(rows, rows[:, :2], 5)
    assert set(seen) >= {
        "PCA", "PCA.fit", "UMAP", "UMAP.fit_transform", "UMAP.transform", "NearestNeighbors",
        "NearestNeighbors.fit", "NearestNeighbors.kneighbors", "StandardScaler",
        "StandardScaler.fit_transform", "StandardScaler.transform", "trustworthiness",
    }  # fmt: skip


def test_attributes_that_the_backend_reads_are_there():
    from cuml.decomposition import PCA

    for name in ("components_", "mean_", "explained_variance_ratio_"):
        assert hasattr(PCA, name)


def test_cupy_functions_exist():
    import cupy

    for name in (
        "asarray",
        "asnumpy",
        "arange",
        "abs",
        "sign",
        "sqrt",
        "concatenate",
        "take_along_axis",
    ):
        assert callable(getattr(cupy, name))


def test_auto_lands_on_the_cpu_with_the_reason():
    backends = Backends("auto")
    assert backends.used == "cpu"
    assert "cuML does not work here" in backends.reason
    assert "CUDA" in backends.reason or "cuda" in backends.reason


def test_asking_for_cuml_is_a_clear_error():
    with pytest.raises(ValueError, match="--backend cuml: cuML does not work here"):
        Backends("cuml")
