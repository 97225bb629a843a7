"""What every source takes and gives back."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from data_pipeline.batch import Arrays
from data_pipeline.checks import Above, AtLeast, OneOf, PlainName, Within, check_fields
from data_pipeline.errors import UserError
from data_pipeline.plugins import installed
from data_pipeline.redact import is_shown
from data_pipeline.sources.pixels import parse_scale
from data_pipeline.values import DTYPES, Values

DATASETS = (
    "mnist",
    "fmnist",
    "kmnist",
    "emnist-letters",
    "emnist-balanced",
    "emnist-digits",
    "emnist-mnist",
    "emnist-bymerge",
    "emnist-byclass",
    "digits",
    "sprites",
    "folder",
    "npz",
    "tiff",
    "webdataset",
    "parquet",
    "hf",
    "zarr",
    "cifar10",
    "cifar100",
    "svhn",
    "stl10",
    "usps",
    "celeba",
)
OF_USER = ("folder", "npz", "tiff", "webdataset", "parquet", "hf", "zarr")
"""Kinds of source that hold whatever the user has."""
NEED_SOURCE = DATASETS[DATASETS.index("folder") :]
SOURCES = "vae_dist.sources"  # the entry points of more sets


def prepare_command(out: str) -> str:
    """The command that writes a data folder: of the set that the folder is named after, if any.

    ``data/mnist_binarised`` is named after mnist, with ``--binarise True``.
    """
    dataset, _, kind = Path(out).name.partition("_")
    if dataset not in DATASETS or dataset in OF_USER:
        dataset, kind = "NAME", ""
    flags = " --source FILES" if dataset in NEED_SOURCE else ""
    flags += " --binarise True" if kind == "binarised" else ""
    return f"vae-dist prepare --dataset {dataset}{flags} --out {shlex.quote(out)}"


@dataclass(kw_only=True)
class SourceConfig:
    """Which images, and where they come from."""

    dataset: Annotated[
        str,
        OneOf(*DATASETS, more=partial(installed, SOURCES)),
        tyro.conf.arg(aliases=["--dataset-type"]),
    ] = "fmnist"
    """mnist, fmnist, kmnist, emnist-letters (-balanced, -digits, -mnist, -bymerge, -byclass),
    digits, sprites (drawn from known factors); from --source: folder (of images), npz (arrays),
    tiff, webdataset, parquet, hf (USER/NAME of the Hugging Face Hub), zarr, cifar10, cifar100,
    svhn, stl10, usps, celeba."""
    source: str | None = None
    """Folder with the raw files, folder of images, or file, or its address (s3://, gs://, hf://,
    https:// of a file), which is brought to TMPDIR first; searched alone if given."""
    name: Annotated[str | None, PlainName()] = None
    """Name of the data set, which reports show; that of the source if not given."""
    download: bool = True
    """Download the raw files when no local copy is found."""
    mirror: str | None = None
    """Base URL tried before the known mirrors; the raw files lie directly under it."""
    download_dir: Path | None = None
    """Where downloaded raw files are kept; the user's cache folder if not given."""
    download_timeout: Annotated[float, Above(0)] = 30.0
    """Seconds without a byte after which a connection is given up."""
    download_retries: Annotated[int, AtLeast(0)] = 4
    """Further attempts at each mirror; an attempt that got bytes does not count."""
    check_sums: bool = True
    """Refuse raw files whose checksum is not the published one."""
    image_size: Annotated[int | None, AtLeast(1)] = None
    """folder: height and width that images are scaled and cropped to; sprites: that they are drawn
    in (64 if not given)."""
    color: Annotated[str, OneOf("auto", "grey", "rgb")] = "auto"
    """folder: grey, rgb, or auto (grey if every image is)."""
    labels: str | None = None
    """folder: .csv, .parquet or .jsonl file with a row an image: its file name and its label."""
    image_field: str | None = None
    """Which column of --labels or of a parquet file, which array of a zarr store, or which member
    of a webdataset's samples (png, input.jpg …), is the image or its file name; guessed, and said, if not given."""
    label_field: str | None = None
    """Which column, array or member is the label (json:KEY for a key of a JSON member)."""
    on_bad_image: Annotated[str, OneOf("skip", "fail")] = "skip"
    """folder: skip files that are no readable image, reported and counted, or fail."""
    scale: str = "auto"
    """folder and npz: the values that become black and white, as in --scale=0,4095; percentile
    (0.1 and 99.9 of all values); or auto: what type and values leave no doubt about, said."""
    dtype: Annotated[str, OneOf("auto", *DTYPES)] = "auto"
    """Type that the shards hold: uint8 (256 levels), uint16, float16, float32; auto: uint8 where
    that loses nothing, else the source's own."""
    binarise: bool = False
    """Draw each pixel once as black or white, with its grey level as the probability of white
    (statically binarised MNIST is made so)."""
    test_fraction: Annotated[float, Within(0, 1, open=True)] = 0.2
    """folder and npz without a test part, digits, sprites: share held out as the test split."""
    sprites: Annotated[int, Within(10, 737_280)] = 50_000
    """sprites: how many of the 737,280 combinations of factors are drawn."""
    sprites_seed: Annotated[int, AtLeast(0)] = 0
    """sprites: seed of which ones."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.source is not None:
            self.source = os.fspath(self.source)
            if is_shown(self.source):
                raise UserError(
                    f"--source {self.source}: the password or signature of this address is not "
                    "kept; give it again"
                )
        parse_scale(self.scale)
        if self.dataset in NEED_SOURCE and self.source is None:
            raise UserError(f"--dataset {self.dataset} needs --source PATH")

    @property
    def labels_path(self) -> Path:
        """``--labels`` as a path, where it was given."""
        assert self.labels is not None
        return Path(self.labels).expanduser()

    @property
    def path(self) -> Path:
        """``--source`` as a path, where it was given and is one."""
        assert self.source is not None
        return Path(self.source).expanduser()


@dataclass(frozen=True)
class SourceData:
    """A data set as it was found, before it is split in folds and written as shards.

    Parameters
    ----------
    name : str
        Name of the data set.
    splits : dict
        ``"train"`` and ``"test"``, each an `Arrays`.
    classes : list of str
        Class names, position = label; empty where the set has no labels (labels are -1).
    provenance : dict
        Where the images came from: files, sums, how they were checked. Fit for JSON.
    names : dict of list of str
        By split, the names of the images in the source, where they have names; they are
        kept in the data folder, ``names.jsonl``.
    values : Values
        Type of the images, and which values are black and white.
    owner : object
        Kept so that temporary files live as long as the images in them.
    """

    name: str
    splits: dict[str, Arrays]
    classes: list[str]
    provenance: dict[str, Any] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    values: Values = field(default_factory=Values)
    owner: object = None


def hold_out(labels: np.ndarray, fraction: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions of a train and a test part, the same on every call, by class where it can be.

    Parameters
    ----------
    labels : ndarray of int64
        One for each image; -1 where there are none.
    fraction : float
        Share of the test part; 0: none.

    Returns
    -------
    tuple of ndarray
        Sorted positions of the train and of the test part.
    """
    if not fraction:
        return np.arange(len(labels)), np.arange(0)
    from sklearn.model_selection import train_test_split

    held_out = int(np.ceil(len(labels) * fraction))
    if not 0 < held_out < len(labels):
        raise UserError(
            f"--test-fraction {fraction} of {len(labels)} images leaves "
            f"{len(labels) - held_out} to train on and {held_out} to test on; both need at least 1"
        )
    counts = np.unique(labels, return_counts=True)[1]
    by_class = counts.min() >= 2 and min(held_out, len(labels) - held_out) >= len(counts)
    train, test = train_test_split(
        np.arange(len(labels)),
        test_size=held_out,
        random_state=42,
        stratify=labels if by_class else None,
    )
    return np.sort(train), np.sort(test)
