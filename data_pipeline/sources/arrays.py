"""Images as NumPy arrays: an .npz file, an .npy file, or a folder of .npy files."""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.progress import Progress
from data_pipeline.remote.transfer import sha256_of
from data_pipeline.sources.base import SourceConfig, SourceData, hold_out

IMAGE_WORDS = ("images", "image", "x", "data", "arr_0")
LABEL_WORDS = ("labels", "label", "targets", "target", "y", "arr_1")
PARTS = ("train", "test", "val")
EXPECTED = "images and labels, or x_train, y_train, x_test, y_test, or train_images, train_labels …"


def load_arrays(config: SourceConfig, progress: Progress) -> SourceData:
    """Read images and labels from NumPy files, never unpickling anything.

    Images are (n, H, W), (n, H, W, C) or (n, C, H, W), C being 1 or 3; bytes, booleans,
    floats in 0..1, or numbers in 0..255. Labels are whole numbers from 0 or strings; an
    array named ``classes`` names the classes.

    Raises
    ------
    ValueError
        If a file is damaged, holds Python objects, or is not what is described above.
    """
    assert config.source is not None
    path = config.source.expanduser()
    tables, sums = _tables(path)
    found = _recognise(tables, path)
    classes = tables.pop("classes", None)
    if "val" in found:
        progress.say("the images of val join train, of which folds are cut")
    parts = {
        part: (
            _images(arrays["images"], f"{path}: images of {part}"),
            _labels(arrays.get("labels"), len(arrays["images"]), f"{path}: labels of {part}"),
        )
        for part, arrays in found.items()
    }
    labels, names = _numbered({part: values for part, (_, values) in parts.items()}, classes, path)
    splits = {}
    if "all" in parts:
        images = parts["all"][0]
        for name, rows in zip(
            ("train", "test"), hold_out(labels["all"], config.test_fraction), strict=True
        ):
            splits[name] = Arrays(images[rows], labels["all"][rows], rows.astype(np.int64))
    else:
        for name, joined in (("train", ("train", "val")), ("test", ("test",))):
            images = _joined([parts[part][0] for part in joined if part in parts], path)
            numbers = np.concatenate([labels[part] for part in joined if part in parts])
            splits[name] = Arrays(images, numbers, np.arange(len(images), dtype=np.int64))
    counts = ", ".join(f"{len(part.labels)} {name}" for name, part in splits.items())
    progress.say(f"{path}: {counts} images, {len(names)} classes")
    provenance = {
        "found": str(path.resolve()),
        "files": sums,
        "test_fraction": config.test_fraction,
    }
    whole = path.resolve()
    return SourceData(whole.name if path.is_dir() else whole.stem, splits, names, provenance)


def _tables(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays by name, and the SHA-256 of the files they lie in."""
    if path.is_dir():
        files = sorted(path.glob("*.npy"))
        if not files:
            raise UserError(f"--source {path}: no .npy file in it")
        tables = {file.stem: _load(file) for file in files}
    elif path.suffix == ".npy" and path.is_file():
        files = [path]
        tables = {"images": _load(path)}
        beside = path.with_name(path.name.replace("images", "labels"))
        if beside != path and beside.is_file():
            files.append(beside)
            tables["labels"] = _load(beside)
    elif path.suffix == ".npz" and path.is_file():
        files = [path]
        tables = _load_archive(path)
    else:
        raise UserError(f"--source {path}: no .npz or .npy file, nor a folder of .npy files")
    named = {re.sub(r"[^a-z0-9]+", "_", name.lower()): table for name, table in tables.items()}
    return named, {file.name: sha256_of(file) for file in files}


def _load(path: Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(_fault(path, error)) from error


def _load_archive(path: Path) -> dict[str, np.ndarray]:
    tables = {}
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                tables[name] = archive[name]
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(_fault(path, error)) from error
    return tables


def _fault(path: Path, error: Exception) -> str:
    if "pickle" in str(error).lower():
        return f"{path}: holds Python objects, or is no NumPy file; only plain arrays are read"
    return f"{path}: damaged ({error})"


def _recognise(tables: Mapping[str, np.ndarray], path: Path) -> dict[str, dict[str, np.ndarray]]:
    """Images and labels of the parts; ``all`` where there is no train and test."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, table in tables.items():
        part, word = "all", name
        for candidate in PARTS:
            if name.startswith(candidate + "_"):
                part, word = candidate, name[len(candidate) + 1 :]
            elif name.endswith("_" + candidate):
                part, word = candidate, name[: -len(candidate) - 1]
        for kind, words in (("images", IMAGE_WORDS), ("labels", LABEL_WORDS)):
            if word in words:
                found.setdefault(part, {}).setdefault(kind, table)
    found = {part: arrays for part, arrays in found.items() if "images" in arrays}
    if "train" in found:
        if "test" not in found and "val" not in found:
            return {"all": found["train"]}
        if "test" not in found:
            found["test"] = found.pop("val")
        if "val" in found:
            return {part: found[part] for part in PARTS}
        return {"train": found["train"], "test": found["test"]}
    if "all" not in found:
        raise UserError(f"{path}: arrays are named {', '.join(tables)}; expected {EXPECTED}")
    return {"all": found["all"]}


def _images(images: np.ndarray, where: str) -> np.ndarray:
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4:
        first, last = images.shape[1] in (1, 3), images.shape[3] in (1, 3)
        if last and (not first or images.shape[2] > 3):
            images = images.transpose(0, 3, 1, 2)
        elif not first:
            raise UserError(f"{where}: shape {images.shape} has no axis of 1 or 3 channels")
    else:
        raise UserError(f"{where}: shape {images.shape}, expected (n, H, W) or with channels")
    if len(images) == 0:
        raise UserError(f"{where}: none")
    if images.dtype == np.uint8:
        return images
    if images.dtype == bool:
        return images.astype(np.uint8) * np.uint8(255)
    if images.dtype.kind not in "iuf":
        raise UserError(f"{where}: numbers expected, not {images.dtype}")
    low, high = images.min(), images.max()
    if images.dtype.kind == "f" and low >= 0 and high <= 1:
        return np.round(images * 255).astype(np.uint8)
    if not (low >= 0 and high <= 255):  # also catches NaN
        raise UserError(f"{where}: values lie in {low} to {high}, expected 0..1 or 0..255")
    return np.round(images).astype(np.uint8)


def _joined(parts: list[np.ndarray], path: Path) -> np.ndarray:
    if len(parts) == 1:
        return parts[0]
    shapes = {part.shape[1:] for part in parts}
    if len(shapes) > 1:
        raise UserError(f"{path}: images of train and val differ in shape: {sorted(shapes)}")
    return np.concatenate(parts)


def _labels(labels: np.ndarray | None, count: int, where: str) -> np.ndarray:
    if labels is None:
        return np.full(count, -1, np.int64)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.shape != (count,):
        raise UserError(f"{where}: shape {labels.shape}, expected ({count},)")
    if labels.dtype.kind in "iu":
        labels = labels.astype(np.int64)
        if labels.min() < -1:
            raise UserError(f"{where}: {labels.min()} is not a class (-1 means none)")
    elif labels.dtype.kind not in "US":
        raise UserError(f"{where}: whole numbers or strings expected, not {labels.dtype}")
    return labels


def _numbered(
    labels: dict[str, np.ndarray], classes: np.ndarray | None, path: Path
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Labels as numbers, and the names of the classes."""
    if len({values.dtype.kind in "US" for values in labels.values()}) > 1:
        raise UserError(f"{path}: some labels are strings, others numbers or missing")
    together = np.concatenate(list(labels.values()))
    if together.dtype.kind in "US":
        names = np.unique(together)
        numbered = {p: np.searchsorted(names, v).astype(np.int64) for p, v in labels.items()}
        return numbered, [n.decode() if isinstance(n, bytes) else str(n) for n in names]
    count = int(together.max()) + 1
    if classes is None:
        if count > 100_000:
            raise UserError(f"{path}: labels go up to {count - 1}; number the classes from 0")
        return labels, [str(label) for label in range(count)]
    if classes.ndim != 1 or len(classes) < count:
        raise UserError(f"{path}: {len(classes)} classes are named, labels go up to {count - 1}")
    return labels, [str(name) for name in classes]
