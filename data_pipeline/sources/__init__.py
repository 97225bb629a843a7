"""Where images come from: the MNIST family, digits, sprites, image folders, arrays."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import fields, replace

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.plugins import load_installed
from data_pipeline.progress import Progress, Silent
from data_pipeline.redact import shown
from data_pipeline.remote.reading import is_remote
from data_pipeline.remote.transfer import Patience
from data_pipeline.sources.base import DATASETS, OF_USER, SOURCES, SourceConfig, SourceData
from data_pipeline.sources.binarised import binarised
from data_pipeline.sources.labels import remarks

__all__ = ["DATASETS", "SourceConfig", "SourceData", "load_source"]


def load_source(
    config: SourceConfig, progress: Progress | None = None, *, remark: bool = True
) -> SourceData:
    """Find a data set, check it and read it.

    Parameters
    ----------
    config : SourceConfig
        Which, and where from.
    progress : Progress, optional
        Told what is found where, and of downloads.
    remark : bool
        Also tell of labels that are missing, which matter where images are trained on.

    Returns
    -------
    SourceData
        The splits ``train`` and ``test``.

    Raises
    ------
    ValueError
        If it is not found, damaged, or not what it should be; one line with the fix.
    """
    watcher = progress if progress is not None else Silent()
    for flag in without_effect(config):
        watcher.say(f"warning: {flag} has no effect on --dataset {config.dataset}")
    if config.dataset == "hf" and config.source:
        from data_pipeline.sources.hf import address_of

        config = _at(config, address_of(config.source))
    if config.source and is_remote(config.source):
        data = _brought(config, watcher)
    else:
        data = _read(config, watcher)
    if config.binarise:
        data = binarised(data)
    if config.name is not None:
        data = replace(data, name=config.name)
    for line in remarks(data.splits, data.classes) if remark else ():
        watcher.say(line)
    return data


def _read(config: SourceConfig, progress: Progress) -> SourceData:
    with files_of_user(f"--source {config.source or config.dataset}: cannot be read"):
        return _loader_of(config.dataset)(config, progress)


def _brought(config: SourceConfig, progress: Progress) -> SourceData:
    """Read a source at an address, by which lines, errors and provenance call it."""
    from data_pipeline.sources.elsewhere import Brought, ByAddress

    assert config.source is not None
    patience = Patience(timeout=config.download_timeout, retries=config.download_retries)
    brought = Brought(config.source, patience, progress)
    try:
        data = _read(_at(config, str(brought.path)), ByAddress(brought, progress))
    except UserError as error:
        raise UserError(brought.by_address(str(error))) from error
    facts = {**data.provenance, "found": shown(config.source)}
    return replace(data, provenance=facts, owner=brought)


def _at(config: SourceConfig, source: str) -> SourceConfig:
    """The same settings for another place."""
    found = copy.copy(config)
    found.source = source
    return found


def without_effect(config: SourceConfig) -> Iterator[str]:
    """Flags that were given and mean nothing to this kind of source."""
    if config.dataset not in DATASETS:
        return  # an installed package reads what it likes
    pictures = ("folder", "tiff", "webdataset", "parquet", "hf", "celeba")
    readers = {
        "labels": ("folder", "tiff"),
        "image_field": (*pictures[:-1], "zarr"),
        "label_field": (*pictures, "zarr"),
        "source": tuple(name for name in DATASETS if name not in ("digits", "sprites")),
        "image_size": (*pictures, "sprites"),
        "color": pictures,
        "on_bad_image": pictures,
        "scale": (*OF_USER, "celeba"),
        "dtype": (*OF_USER, "celeba"),
        "test_fraction": (*OF_USER, "digits", "sprites"),
        "sprites": ("sprites",),
        "sprites_seed": ("sprites",),
    }
    for field in fields(config):
        given = getattr(config, field.name) != field.default
        if given and config.dataset not in readers.get(field.name, (config.dataset,)):
            yield "--" + field.name.replace("_", "-")


def _loader_of(dataset: str) -> Callable[[SourceConfig, Progress], SourceData]:
    if dataset not in DATASETS:
        found: Callable[[SourceConfig, Progress], SourceData] = load_installed(SOURCES, dataset)
        return found
    if dataset == "digits":
        from data_pipeline.sources.digits import load_digits

        return load_digits
    if dataset == "sprites":
        from data_pipeline.sources.sprites import load_sprites

        return load_sprites
    if dataset == "folder":
        from data_pipeline.sources.folder import load_folder

        return load_folder
    if dataset in ("npz", "zarr"):
        from data_pipeline.sources.arrays import load_arrays

        return load_arrays
    if dataset == "tiff":
        from data_pipeline.sources.tiff import load_tiff

        return load_tiff
    if dataset == "webdataset":
        from data_pipeline.sources.web_tars import load_webdataset

        return load_webdataset
    if dataset == "parquet":
        from data_pipeline.sources.parquet import load_parquet

        return load_parquet
    if dataset == "hf":
        from data_pipeline.sources.hf import load_hf

        return load_hf
    if dataset == "celeba":
        from data_pipeline.sources.celeba import load_celeba

        return load_celeba
    if dataset in ("cifar10", "cifar100", "svhn", "stl10", "usps"):
        from data_pipeline.sources.published import load_published

        return load_published
    from data_pipeline.sources.mnist import load_mnist_family

    return load_mnist_family
