"""Which images of a source are train, val and test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.order import permutation

if TYPE_CHECKING:
    from data_pipeline.write.config import PrepareConfig


def fold_rows(labels: np.ndarray, config: PrepareConfig) -> tuple[np.ndarray, np.ndarray]:
    """Cut the official training set into train and val.

    Parameters
    ----------
    labels : numpy.ndarray
        int64, ``(n,)``.
    config : PrepareConfig
        ``folds``, ``fold``, ``stratify``, ``split_seed``, ``mix``.

    Returns
    -------
    train, val : numpy.ndarray
        Rows of each; val ascending, train in the order in which it is written.
    """
    from sklearn.model_selection import KFold, StratifiedKFold

    if len(labels) < config.folds:
        raise UserError(f"--folds {config.folds}: there are only {len(labels)} training images")
    labelled = bool((labels >= 0).all())
    kind = StratifiedKFold if config.stratify and labelled else KFold
    if kind is StratifiedKFold and np.bincount(labels).max() < config.folds:
        raise UserError(
            f"--folds {config.folds}: no class has that many training images; "
            "ask for fewer folds or --stratify False"
        )
    folds = kind(config.folds, shuffle=True, random_state=config.split_seed)
    train, val = list(folds.split(np.zeros(len(labels)), labels))[config.fold]
    if config.mix:
        train = train[permutation(len(train), config.split_seed, "write")]
    return train.astype(np.int64), val.astype(np.int64)
