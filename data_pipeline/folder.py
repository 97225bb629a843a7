"""Opening a data folder."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.loader import LoaderConfig
from data_pipeline.manifest import MANIFEST_NAME, Manifest, Shard, parse_manifest
from data_pipeline.remote import is_remote, join, read_small, read_whole
from data_pipeline.tars import read_tar


@dataclass(frozen=True)
class DataFolder:
    """A data folder, local or remote.

    Attributes
    ----------
    path : str
        Path or address.
    manifest : Manifest
        What it holds.
    config : LoaderConfig
        How it is read.
    """

    path: str
    manifest: Manifest
    config: LoaderConfig

    def location(self, shard: Shard) -> str:
        """Path or address of a shard."""
        return join(self.path, shard.name)

    def arrays(self, split: str, exclude: Collection[str] = frozenset()) -> Arrays:
        """All images of a split, ascending by their position in the source.

        Parameters
        ----------
        split : str
            ``train``, ``val`` or ``test``.
        exclude : collection of str
            Names of shards to leave out.

        Raises
        ------
        ValueError
            If a shard is damaged; its name is in the message.
        """
        parts = [
            self.read_shard(shard)
            for shard in self.manifest.split(split).shards
            if shard.name not in exclude
        ]
        if not parts:
            none = np.zeros(0, np.int64)
            return Arrays(np.zeros((0, *self.manifest.image_shape), np.uint8), none, none)
        images, labels, index = map(np.concatenate, zip(*parts, strict=True))
        order = np.argsort(index, kind="stable")
        return Arrays(images[order], labels[order], index[order])

    def read_shard(self, shard: Shard) -> Arrays:
        """All images of a shard in the order of the file, checked against the manifest."""
        where = self.location(shard)
        data = read_whole(where, shard, self.config)
        if len(data) != shard.bytes or hashlib.sha256(data).hexdigest() != shard.sha256:
            raise ValueError(
                f"{where}: damaged shard ({len(data)} bytes, {shard.bytes} expected, or another "
                "SHA-256); run vae-dist verify, restore it, or pass --on-bad-shard skip"
            )
        parts = list(read_tar(io.BytesIO(data), self.manifest.layout, where))
        arrays = Arrays(*map(np.concatenate, zip(*parts, strict=True)))
        check_arrays(arrays, self.manifest, shard.count, where)
        return arrays


def open_data(path: str, *, config: LoaderConfig | None = None) -> DataFolder:
    """Open a data folder.

    Parameters
    ----------
    path : str
        A folder, or an address such as ``https://host/fmnist`` or ``s3://bucket/fmnist``.
    config : LoaderConfig, optional
        How to read it.
    """
    path = str(path)
    config = config or LoaderConfig()
    where = join(path, MANIFEST_NAME)
    try:
        text = read_small(where, config)
    except FileNotFoundError:
        mend = "" if is_remote(path) else "; write it with vae-dist prepare --out " + path
        raise ValueError(f"{path}: no data folder (no {MANIFEST_NAME} there){mend}") from None
    return DataFolder(path, parse_manifest(text, where), config)


def check_arrays(arrays: Arrays, manifest: Manifest, count: int, where: str) -> None:
    """Refuse what is not the images that the manifest promises."""
    images, labels, index = arrays
    if images.dtype != np.uint8 or images.shape != (count, *manifest.image_shape):
        raise ValueError(
            f"{where}: damaged shard: {images.dtype} {images.shape}, expected "
            f"uint8 {(count, *manifest.image_shape)}"
        )
    for name, values in (("labels", labels), ("index", index)):
        if values.dtype != np.int64 or values.shape != (count,):
            raise ValueError(f"{where}: damaged shard: {name} are {values.dtype} {values.shape}")
