"""Where images come from: the MNIST family, digits, image folders, arrays."""

from __future__ import annotations

from collections.abc import Callable

from data_pipeline.errors import UserError
from data_pipeline.progress import Progress, Silent
from data_pipeline.sources.base import DATASETS, SourceConfig, SourceData

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
        If it is not found, damaged, or not what it should be; one line with the mend.
    """
    watcher = progress if progress is not None else Silent()
    try:
        return _loader_of(config.dataset)(config, watcher)
    except OSError as error:
        raise UserError(f"{error.filename or config.source}: {error.strerror or error}") from error


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
