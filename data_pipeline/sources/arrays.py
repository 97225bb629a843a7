"""Images as arrays: an .npz or .npy file, a folder of .npy files, a zarr store."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.progress import Progress
from data_pipeline.remote.transfer import sha256_of
from data_pipeline.sources.array_images import (
    ArrayImages,
    check_shape,
    image_shape_of,
    rows_at_once,
    said_of_axes,
)
from data_pipeline.sources.base import SourceConfig, SourceData, hold_out
from data_pipeline.sources.bounds import SMALL
from data_pipeline.sources.labels import LONGEST_NAME, numbered
from data_pipeline.sources.names import shown
from data_pipeline.sources.numpy_files import StoredArray, is_regular, open_npy, open_npz
from data_pipeline.sources.pixels import kept_as, said, scale_for
from data_pipeline.sources.tally import Scale, Tally
from data_pipeline.values import Values

IMAGE_WORDS = ("images", "image", "x", "data", "arr_0")
LABEL_WORDS = ("labels", "label", "targets", "target", "y", "arr_1")
PARTS = ("train", "test", "val")
EXPECTED = "images and labels, or x_train, y_train, x_test, y_test, or train_images, train_labels …"


def load_arrays(config: SourceConfig, progress: Progress) -> SourceData:
    """Read images and labels from NumPy files or a zarr store, never unpickling anything.

    Images are (n, H, W), (n, H, W, C) or (n, C, H, W), C of any number, of any values that
    `data_pipeline.sources.pixels` knows the brightness of. Labels are whole numbers or
    strings; an array named ``classes`` names the classes. Images that take more than
    256 MB are read when they are written, so that a file may be larger than memory.

    Raises
    ------
    UserError
        If a file is damaged, holds Python objects, or is not what is described above.
    """
    path = config.path
    tables, sums, names = _tables(config, progress)
    found = _recognise(tables, names, path)
    if "val" in found:
        progress.say("the images of val join train, of which folds are cut")
    for part, arrays in found.items():
        check_shape(arrays, part, path)
    scales, kept, lines = _scales(found, config, path)
    for line in lines:
        progress.say(line)
    classes = _class_names(tables.get("classes"), path)
    words = {
        part: _labels(arrays.get("labels"), len(arrays["images"]), f"{path}: labels of {part}")
        for part, arrays in found.items()
    }
    labels, names = numbered(words, classes, str(path))
    splits = {}
    for name, parts, rows in _splits(found, labels, config):
        pieces = [(found[part]["images"], scales[part]) for part in parts]
        numbers = np.concatenate([labels[part] for part in parts])
        rows = np.arange(len(numbers), dtype=np.int64) if rows is None else rows.astype(np.int64)
        images = ArrayImages(pieces, kept)
        if np.prod(images.shape, dtype=float) * kept.size <= SMALL:
            taken = images[:][rows]
        else:
            taken = ArrayImages(pieces, kept, rows)
        splits[name] = Arrays(taken, numbers[rows], rows)
    counts = ", ".join(f"{len(part.labels)} {name}" for name, part in splits.items())
    progress.say(f"{path}: {counts} images, {len(names)} classes")
    provenance = {
        "found": str(path.resolve()),
        "files": sums,
        "test_fraction": config.test_fraction,
        "pixels": {part: [scale.low, scale.high, scale.why] for part, scale in scales.items()},
        "types": {
            arrays["images"].dtype.name: [scales[part].low, scales[part].high]
            for part, arrays in found.items()
        },
    }
    whole = path.resolve()
    return SourceData(
        whole.name.removesuffix(".zarr") if path.is_dir() else whole.stem,
        splits,
        names,
        provenance,
        values=kept,
    )


def _tables(
    config: SourceConfig, progress: Progress
) -> tuple[dict[str, StoredArray], dict[str, str], list[str]]:
    """Arrays by plain name, the SHA-256 of the files they lie in, and the names of all arrays."""
    path = config.path
    if config.dataset == "zarr":
        return _of_zarr(config, progress)
    if path.is_dir():
        files = sorted(file for file in path.glob("*.npy") if is_regular(file))
        if not files:
            raise UserError(f"--source {path}: no .npy file in it")
        names = [file.stem for file in files]
        files = [file for file in files if _wanted(file.stem)]
        tables = {file.stem: open_npy(file) for file in files}
    elif path.suffix == ".npy" and is_regular(path):
        files, names = [path], ["images"]
        tables = {"images": open_npy(path)}
        beside = path.with_name(path.name.replace("images", "labels"))
        if beside != path and is_regular(beside):
            files.append(beside)
            tables["labels"] = open_npy(beside)
    elif path.suffix == ".npz" and is_regular(path):
        files = [path]
        tables, names = open_npz(path, _wanted)
    else:
        raise UserError(f"--source {path}: no .npz or .npy file, nor a folder of .npy files")
    return _by_plain_name(tables), {shown(file.name): sha256_of(file) for file in files}, names


def _of_zarr(
    config: SourceConfig, progress: Progress
) -> tuple[dict[str, StoredArray], dict[str, str], list[str]]:
    """`_tables` of a zarr store; the sums are of the unpacked values."""
    from data_pipeline.sources.zarr_files import open_zarr

    asked = {
        field: kind
        for field, kind in ((config.image_field, "images"), (config.label_field, "labels"))
        if field is not None
    }

    def wanted(name: str) -> bool:
        return _wanted(name) if not asked else name in asked or _plain(name) == "classes"

    tables, names = open_zarr(config.path, wanted, progress.say)
    for name in asked:
        if name not in tables:
            found = ", ".join(map(shown, names[:20]))
            raise UserError(f"{config.path}: no array {name}; there are {found}")
    sums = {shown(name): table.sha256() for name, table in tables.items()}
    return _by_plain_name({asked.get(name, name): t for name, t in tables.items()}), sums, names


def _by_plain_name(tables: Mapping[str, StoredArray]) -> dict[str, StoredArray]:
    for table in tables.values():
        if 0 in table.shape:
            raise UserError(f"{table.where}: shape {table.shape} holds no images and no labels")
    return {_plain(name): table for name, table in tables.items()}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower())


def _wanted(name: str) -> bool:
    return _plain(name) == "classes" or _meaning(_plain(name)) is not None


def _meaning(name: str) -> tuple[str, str] | None:
    """Part and kind of the array of that name, None if it is neither images nor labels."""
    part, word = "all", name
    for candidate in PARTS:
        if name.startswith(candidate + "_"):
            part, word = candidate, name[len(candidate) + 1 :]
        elif name.endswith("_" + candidate):
            part, word = candidate, name[: -len(candidate) - 1]
    kinds = (("images", IMAGE_WORDS), ("labels", LABEL_WORDS))
    return next(((part, kind) for kind, words in kinds if word in words), None)


def _recognise(
    tables: Mapping[str, StoredArray], names: Sequence[str], path: Path
) -> dict[str, dict[str, StoredArray]]:
    """Images and labels of the parts; ``all`` where there is no train and test."""
    found: dict[str, dict[str, StoredArray]] = {}
    for name, table in tables.items():
        meaning = _meaning(name)
        if meaning is not None:
            part, kind = meaning
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
        raise UserError(
            f"{path}: arrays are named {', '.join(map(shown, names[:20]))}; expected {EXPECTED}"
        )
    return {"all": found["all"]}


def _splits(
    found: Mapping[str, Mapping[str, StoredArray]],
    labels: Mapping[str, np.ndarray],
    config: SourceConfig,
) -> Iterator[tuple[str, tuple[str, ...], np.ndarray | None]]:
    """Name of each split, the parts that it is of, and which of their rows."""
    if "all" in found:
        rows = hold_out(labels["all"], config.test_fraction)
        yield "train", ("all",), rows[0]
        yield "test", ("all",), rows[1]
        return
    yield "train", tuple(part for part in ("train", "val") if part in found), None
    yield "test", ("test",), None


def _scales(
    found: Mapping[str, Mapping[str, StoredArray]], config: SourceConfig, path: Path
) -> tuple[dict[str, Scale], Values, list[str]]:
    """The scale of each part, one for all of a type; what is stored; what is to be said of both."""
    shapes = {part: image_shape_of(arrays["images"]) for part, arrays in found.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"{path}: images differ in shape: {shapes}")
    tallies: dict[np.dtype, Tally] = {}
    for arrays in found.values():
        images = arrays["images"]
        dtype = images.dtype.newbyteorder("=")
        if dtype.kind not in "biuf":
            raise UserError(f"{images.where}: numbers expected, not {images.dtype}")
        tally = tallies.setdefault(dtype, Tally(dtype))
        step = rows_at_once(images)
        for start in range(0, len(images), step):
            tally.add(images.rows(start, min(start + step, len(images))))
    scales = {dtype: scale_for(config.scale, tally, str(path)) for dtype, tally in tallies.items()}
    lines = [said(tally, scales[dtype], str(path)) for dtype, tally in tallies.items()]
    of_part = {p: scales[a["images"].dtype.newbyteorder("=")] for p, a in found.items()}
    lines[:0] = {f"{path}: {line}" for a in found.values() for line in said_of_axes(a["images"])}
    pairs = [(tally, scales[dtype]) for dtype, tally in tallies.items()]
    kept, line = kept_as(config.dtype, pairs, str(path))
    return of_part, kept, [line for line in [*lines, line] if line]


def _labels(labels: StoredArray | None, count: int, where: str) -> np.ndarray:
    if labels is None:
        return np.full(count, -1, np.int64)
    if labels.shape not in ((count,), (count, 1)):
        raise UserError(f"{where}: shape {labels.shape}, expected ({count},)")
    if labels.dtype.kind in "biu":
        values = labels.whole().reshape(count).astype(np.int64)
        if values.min() < -1:
            raise UserError(f"{where}: {values.min()} is not a class (-1 means none)")
        return values
    if labels.dtype.kind not in "US":
        raise UserError(f"{where}: whole numbers or strings expected, not {labels.dtype}")
    return _strings(labels, where).reshape(count)


def _class_names(classes: StoredArray | None, path: Path) -> list[str] | None:
    if classes is None:
        return None
    if len(classes.shape) != 1 or classes.dtype.kind not in "USiu":
        raise UserError(f"{path}: classes: a row of names expected, not {classes.dtype}")
    return [
        name.decode("utf-8", "backslashreplace") if isinstance(name, bytes) else str(name)
        for name in (_strings(classes, f"{path}: classes"))
    ]


def _strings(array: StoredArray, where: str) -> np.ndarray:
    if array.dtype.itemsize > 4 * LONGEST_NAME:
        raise UserError(f"{where}: names of up to {array.dtype.itemsize:,} bytes are no classes")
    return array.whole()
