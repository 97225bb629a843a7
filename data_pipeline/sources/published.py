"""CIFAR-10, CIFAR-100, SVHN, STL-10 and USPS, from the files as they are published."""

from __future__ import annotations

import bz2
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.progress import Progress
from data_pipeline.remote.transfer import sha256_of
from data_pipeline.sources.base import SourceConfig, SourceData
from data_pipeline.sources.bounds import SMALL
from data_pipeline.sources.cifar_batches import read_batch
from data_pipeline.sources.names import shown
from data_pipeline.sources.numpy_files import is_regular

Part = tuple[np.ndarray, np.ndarray]
_MOST_NAMES = 1 << 16


def load_published(config: SourceConfig, progress: Progress) -> SourceData:
    """Read one of the sets from a folder that holds its files, or the folder they come in.

    Raises
    ------
    UserError
        If files are missing, or are not what is published under their names.
    """
    root = config.path
    if not root.is_dir():
        raise UserError(f"--source {config.source}: no such folder")
    files: dict[str, str] = {}

    def find(*names: str) -> Path | None:
        for name in names:
            for folder in (root, *(p for p in sorted(root.iterdir()) if p.is_dir())):
                if is_regular(folder / name):
                    files[name] = sha256_of(folder / name)
                    return folder / name
        return None

    splits, classes = _LOADERS[config.dataset](find, config)
    arrays = {}
    for name, (images, labels) in splits.items():
        numbers = np.ascontiguousarray(labels, np.int64)
        if len(images) != len(numbers) or not len(numbers):
            raise UserError(f"{root}: {name} has {len(images)} images and {len(numbers)} labels")
        if not 0 <= numbers.min() <= numbers.max() < len(classes):
            raise UserError(f"{root}: {name} labels lie outside the {len(classes)} classes")
        arrays[name] = Arrays(images, numbers, np.arange(len(numbers), dtype=np.int64))
    counts = ", ".join(f"{len(part.labels)} {name}" for name, part in arrays.items())
    progress.say(f"{config.dataset}: {counts} images in {shown(str(root))}")
    provenance = {"found": shown(str(root.resolve())), "files": files}
    return SourceData(config.dataset, arrays, classes, provenance)


Find = Callable[..., Path | None]
Loaded = tuple[dict[str, Part], list[str]]


def _need(path: Path | None, config: SourceConfig, *names: str) -> Path:
    if path is None:
        raise UserError(f"--source {config.source}: no {' or '.join(names)} there, nor below it")
    return path


def _cifar(find: Find, config: SourceConfig) -> Loaded:
    ten = config.dataset == "cifar10"
    if ten:
        parts = {"train": [f"data_batch_{n}" for n in range(1, 6)], "test": ["test_batch"]}
    else:
        parts = {"train": ["train"], "test": ["test"]}
    head = 1 if ten else 2  # bytes of labels before each picture; the last is the finer one
    splits = {}
    for split, names in parts.items():
        pieces = []
        for name in names:
            path = _need(find(f"{name}.bin", name), config, f"{name}.bin", name)
            pieces.append(_cifar_binary(path, head) if path.suffix else _cifar_pickle(path))
        splits[split] = tuple(map(np.concatenate, zip(*pieces, strict=True)))
    names_file = find("batches.meta.txt" if ten else "fine_label_names.txt")
    if names_file is not None:
        words = _lines(names_file)
    else:
        meta = find("batches.meta" if ten else "meta")
        key = "label_names" if ten else "fine_label_names"
        words = [shown(_text(w)) for w in _batch(meta)[key]] if meta is not None else []
    return splits, words or [str(n) for n in range(10 if ten else 100)]  # type: ignore[return-value]


def _cifar_binary(path: Path, head: int) -> Part:
    rows = _bytes(path, head + 3072)
    return rows[:, head:].reshape(-1, 3, 32, 32), rows[:, head - 1]


def _cifar_pickle(path: Path) -> Part:
    content = _batch(path)
    labels = content.get("labels", content.get("fine_labels"))
    data = content.get("data")
    if (
        not isinstance(data, np.ndarray)
        or data.shape[1:] != (3072,)
        or not isinstance(labels, list)
    ):
        raise UserError(f"{shown(str(path))}: not a batch of CIFAR")
    return data.reshape(-1, 3, 32, 32), _whole(labels, path)


def _svhn(find: Find, config: SourceConfig) -> Loaded:
    import scipy.io

    splits = {}
    for split in ("train", "test"):
        name = f"{split}_32x32.mat"
        path = _need(find(name), config, name)
        _small(path)
        try:
            shapes = {n: shape for n, shape, _ in scipy.io.whosmat(path)}
            count = shapes["X"][3]
            if shapes["X"] != (32, 32, 3, count) or shapes["y"] not in ((count, 1), (1, count)):
                raise ValueError(f"X and y have shapes {shapes['X']} and {shapes['y']}")
            if count * 3072 > 8 * SMALL:
                raise ValueError(f"{count:,} images are more than are published")
            content = scipy.io.loadmat(path, variable_names=["X", "y"])
            images, labels = content["X"], content["y"].ravel()
            if images.dtype != np.uint8:
                raise ValueError(f"X is of {images.dtype}")
        except Exception as error:  # scipy raises many kinds on damaged files
            reason = " ".join(str(error).split())[:150]
            raise UserError(f"{shown(str(path))}: damaged, or not SVHN ({reason})") from error
        splits[split] = np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels % 10
    return splits, [str(n) for n in range(10)]


def _stl(find: Find, config: SourceConfig) -> Loaded:
    splits = {}
    for split in ("train", "test"):
        images = _need(find(f"{split}_X.bin"), config, f"{split}_X.bin")
        labels = _need(find(f"{split}_y.bin"), config, f"{split}_y.bin")
        rows = _bytes(images, 3 * 96 * 96)
        pixels = rows.reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)  # stored column by column
        splits[split] = np.ascontiguousarray(pixels), _bytes(labels, 1)[:, 0].astype(np.int64) - 1
    names = find("class_names.txt")
    words = _lines(names) if names is not None else []
    return splits, words or [str(n) for n in range(1, 11)]


def _usps(find: Find, config: SourceConfig) -> Loaded:
    splits = {}
    for split, names in {"train": ("usps.bz2", "usps"), "test": ("usps.t.bz2", "usps.t")}.items():
        path = _need(find(*names), config, *names)
        _small(path)
        try:
            text = path.read_bytes()
            if path.suffix == ".bz2":
                with bz2.open(io.BytesIO(text)) as file:
                    text = file.read(SMALL)
                    if file.read(1):
                        raise ValueError("unpacks to far more than is published")
            rows = [_usps_row(line) for line in text.splitlines() if line.strip()]
        except (OSError, EOFError, ValueError) as error:
            raise UserError(f"{shown(str(path))}: damaged, or not USPS ({error})") from error
        images = np.stack([pixels for _, pixels in rows]).reshape(-1, 1, 16, 16)
        splits[split] = images, np.array([label for label, _ in rows], np.int64)
    return splits, [str(n) for n in range(10)]


def _usps_row(line: bytes) -> tuple[int, np.ndarray]:
    """``LABEL 1:VALUE …`` with labels from 1 and values of -1 to 1."""
    label, *pairs = line.split()
    values = np.full(256, -1.0)
    for pair in pairs:
        place, _, value = pair.partition(b":")
        if not 1 <= int(place) <= 256:
            raise ValueError(f"pixel {int(place)} of 256")
        values[int(place) - 1] = float(value)
    if not (np.abs(values) <= 1).all():
        raise ValueError("values outside -1 to 1")
    return int(float(label)) - 1, np.round((values + 1) / 2 * 255).astype(np.uint8)


_LOADERS: dict[str, Callable[[Find, SourceConfig], Loaded]] = {
    "cifar10": _cifar,
    "cifar100": _cifar,
    "svhn": _svhn,
    "stl10": _stl,
    "usps": _usps,
}


def _small(path: Path, limit: int = SMALL) -> None:
    size = path.stat().st_size
    if size > limit:
        raise UserError(f"{shown(str(path))}: {size:,} bytes are more than are published")


def _bytes(path: Path, width: int) -> np.ndarray:
    """The rows of a file of bytes, `width` each."""
    _small(path)
    content = path.read_bytes()
    if not content or len(content) % width:
        raise UserError(f"{shown(str(path))}: {len(content):,} bytes are not a multiple of {width}")
    return np.frombuffer(content, np.uint8).reshape(-1, width)


def _lines(path: Path) -> list[str]:
    _small(path, _MOST_NAMES)
    text = path.read_bytes().decode("utf-8", "backslashreplace")
    return [shown(line.strip()) for line in text.splitlines() if line.strip()]


def _whole(labels: Sequence[Any], path: Path) -> np.ndarray:
    if not all(type(label) is int and 0 <= label < _MOST_NAMES for label in labels):
        raise UserError(f"{shown(str(path))}: labels are not whole numbers")
    return np.array(labels, np.int64)


def _text(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _batch(path: Path) -> dict[str, Any]:
    _small(path)
    return read_batch(path.read_bytes(), path)
