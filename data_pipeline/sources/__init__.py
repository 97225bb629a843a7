"""Where images come from: the MNIST family, digits, image folders, arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

from data_pipeline.errors import files_of_user
from data_pipeline.progress import Progress, Silent
from data_pipeline.sources.base import DATASETS, SourceConfig, SourceData
from data_pipeline.sources.labels import remarks

__all__ = ["DATASETS", "SourceConfig", "SourceData", "load_source"]


def load_source(config: SourceConfig, progress: Progress | None = None) -> SourceData:
    """Find a data set, check it and read it.

    Parameters
    ----------
    config : SourceConfig
        Which, and where from.
    progress : Progress, optional
        Told what is found where, and of downloads.

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
    with files_of_user(f"--source {config.source or config.dataset}: cannot be read"):
        data = _loader_of(config.dataset)(config, watcher)
    for line in remarks(data.splits, data.classes):
        watcher.say(line)
    return data


def without_effect(config: SourceConfig) -> Iterator[str]:
    """Flags that were given and mean nothing to this kind of source."""
    readers = {
        "source": tuple(name for name in DATASETS if name != "digits"),
        "image_size": ("folder",),
        "color": ("folder",),
        "on_bad_image": ("folder",),
        "scale": ("folder", "npz"),
        "test_fraction": ("folder", "npz", "digits"),
    }
    for field in fields(config):
        given = getattr(config, field.name) != field.default
        if given and config.dataset not in readers.get(field.name, (config.dataset,)):
            yield "--" + field.name.replace("_", "-")


def _loader_of(dataset: str) -> Callable[[SourceConfig, Progress], SourceData]:
    if dataset == "digits":
        from data_pipeline.sources.digits import load_digits

        return load_digits
    if dataset == "folder":
        from data_pipeline.sources.folder import load_folder

        return load_folder
    if dataset == "npz":
        from data_pipeline.sources.arrays import load_arrays

        return load_arrays
    from data_pipeline.sources.mnist import load_mnist_family

    return load_mnist_family
