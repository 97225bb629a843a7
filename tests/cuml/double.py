"""A GPU's stand-in: cuML's and CuPy's conventions, computed by numpy and scikit-learn.

Constructors take keywords alone; what comes out are device arrays, which refuse to become
numpy arrays unless they are asked to (`get`) and refuse to mix with them. UMAP's seed is
taken and promises nothing.
"""

from types import SimpleNamespace
from typing import Any

import numpy as np


class DeviceArray:
    """An array on a device that is not there."""

    __array_ufunc__ = None  # numpy must not reach in

    def __init__(self, host: np.ndarray) -> None:
        assert isinstance(host, np.ndarray)
        self._host = host

    def get(self) -> np.ndarray:
        return self._host.copy()

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use `.get()`.")

    def __len__(self) -> int:
        return len(self._host)

    def __getitem__(self, key: Any) -> "DeviceArray":
        keys = key if isinstance(key, tuple) else (key,)
        keys = tuple(k._host if isinstance(k, DeviceArray) else k for k in keys)
        return DeviceArray(np.asarray(self._host[keys]))

    def reshape(self, *shape: int) -> "DeviceArray":
        return DeviceArray(self._host.reshape(*shape))

    def sum(self, axis: int) -> "DeviceArray":
        return DeviceArray(self._host.sum(axis=axis))

    def argsort(self, axis: int) -> "DeviceArray":
        return DeviceArray(self._host.argsort(axis=axis, kind="stable"))

    def argmax(self, axis: int) -> "DeviceArray":
        return DeviceArray(self._host.argmax(axis=axis))

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    T = property(lambda self: DeviceArray(self._host.T))

    def _binary(self, other: Any, operator: str) -> "DeviceArray":
        if isinstance(other, np.ndarray) and other.ndim:
            raise TypeError("Unsupported type <class 'numpy.ndarray'>")
        other = other._host if isinstance(other, DeviceArray) else other
        return DeviceArray(getattr(self._host, operator)(other))

    def __add__(self, other: Any) -> "DeviceArray":
        return self._binary(other, "__add__")

    def __sub__(self, other: Any) -> "DeviceArray":
        return self._binary(other, "__sub__")

    def __mul__(self, other: Any) -> "DeviceArray":
        return self._binary(other, "__mul__")

    def __matmul__(self, other: Any) -> "DeviceArray":
        return self._binary(other, "__matmul__")


def host(array: Any) -> np.ndarray:
    return array.get() if isinstance(array, DeviceArray) else np.asarray(array)


def _asarray(array: Any, dtype: Any = None) -> DeviceArray:
    return DeviceArray(np.asarray(host(array), dtype=dtype))


cupy = SimpleNamespace(
    __version__="double",
    float32=np.float32,
    asarray=_asarray,
    asnumpy=host,
    arange=lambda n: DeviceArray(np.arange(n)),
    abs=lambda a: DeviceArray(np.abs(a._host)),
    sqrt=lambda a: DeviceArray(np.sqrt(a._host)),
    take_along_axis=lambda a, i, axis: DeviceArray(np.take_along_axis(a._host, i._host, axis)),
    sign=lambda a: DeviceArray(np.sign(a._host)),
    concatenate=lambda parts, axis: DeviceArray(np.concatenate([p._host for p in parts], axis)),
    cuda=SimpleNamespace(
        Device=lambda: SimpleNamespace(id=0),
        runtime=SimpleNamespace(getDeviceProperties=lambda _: {"name": b"stand-in"}),
    ),
)


class PCA:
    def __init__(self, *, n_components=None, svd_solver="auto", output_type=None) -> None:
        self.n_components = n_components

    def fit(self, X, y=None):
        from sklearn.decomposition import PCA as Reference

        found = Reference(self.n_components, svd_solver="full").fit(host(X))
        flipped = -found.components_  # signs are anyone's choice
        self.components_ = DeviceArray(flipped.astype(np.float32))
        self.mean_ = DeviceArray(found.mean_.astype(np.float32))
        self.explained_variance_ratio_ = DeviceArray(found.explained_variance_ratio_)
        return self


class UMAP:
    def __init__(
        self,
        *,
        n_neighbors=15,
        n_components=2,
        metric="euclidean",
        min_dist=0.1,
        init="spectral",
        random_state=None,
        precomputed_knn=None,
        output_type=None,
    ) -> None:
        index, distance = precomputed_knn
        assert index.shape == distance.shape == (len(index), n_neighbors)
        assert (index[:, 0] == np.arange(len(index))).all()  # cuML wants each row itself first
        self.n_components = n_components

    def fit_transform(self, X, y=None):
        from sklearn.decomposition import PCA as Reference

        self._reference = Reference(self.n_components).fit(host(X))
        return self.transform(X)

    def transform(self, X):
        found = self._reference.transform(host(X))
        noise = np.random.default_rng().normal(size=found.shape) * 1e-3
        return DeviceArray((found + noise).astype(np.float32))


class NearestNeighbors:
    def __init__(
        self, *, n_neighbors=5, algorithm="auto", metric="euclidean", output_type=None
    ) -> None:
        self.n_neighbors = n_neighbors

    def fit(self, X, y=None):
        from sklearn.neighbors import NearestNeighbors as Reference

        self._reference = Reference(n_neighbors=self.n_neighbors, algorithm="brute").fit(host(X))
        return self

    def kneighbors(
        self, X=None, n_neighbors=None, return_distance=True, *, two_pass_precision=False
    ):
        assert not two_pass_precision  # it measures from the queries
        distance, index = self._reference.kneighbors(host(X), n_neighbors)
        distance, index = distance[:, ::-1], index[:, ::-1]  # the real order is not exact
        pair = DeviceArray(distance.astype(np.float32)), DeviceArray(index.astype(np.int64))
        return pair if return_distance else pair[1]


class StandardScaler:
    def __init__(self, *, copy=True, with_mean=True, with_std=True) -> None:
        pass

    def fit_transform(self, X, y=None):
        from sklearn.preprocessing import StandardScaler as Reference

        self._reference = Reference().fit(host(X))
        return self.transform(X)

    def transform(self, X, copy=None):
        return DeviceArray(self._reference.transform(host(X)).astype(np.float32))


def trustworthiness(X, X_embedded, *, n_neighbors=5, metric="euclidean", batch_size=512):
    from sklearn.manifold import trustworthiness as reference

    return reference(host(X), host(X_embedded), n_neighbors=n_neighbors)


MODULES = {
    "cupy": cupy,
    "cuml": SimpleNamespace(__version__="double"),
    "cuml.decomposition": SimpleNamespace(PCA=PCA),
    "cuml.manifold": SimpleNamespace(UMAP=UMAP),
    "cuml.metrics": SimpleNamespace(trustworthiness=trustworthiness),
    "cuml.neighbors": SimpleNamespace(NearestNeighbors=NearestNeighbors),
    "cuml.preprocessing": SimpleNamespace(StandardScaler=StandardScaler),
}


def load(name: str) -> Any:
    """Take `importlib.import_module`'s place."""
    return MODULES[name]
