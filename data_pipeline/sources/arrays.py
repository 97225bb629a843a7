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
from data_pipeline.sources.base import SourceConfig, SourceData, hold_out
from data_pipeline.sources.bounds import SMALL
from data_pipeline.sources.labels import LONGEST_NAME, numbered
from data_pipeline.sources.names import shown
from data_pipeline.sources.numpy_files import StoredArray, is_regular, open_npy, open_npz
from data_pipeline.sources.pixels import Scale, Tally, kept_as, said, scale_for, to_stored
from data_pipeline.values import Values

IMAGE_WORDS = ("images", "image", "x", "data", "arr_0")
LABEL_WORDS = ("labels", "label", "targets", "target", "y", "arr_1")
PARTS = ("train", "test", "val")
EXPECTED = "images and labels, or x_train, y_train, x_test, y_test, or train_images, train_labels …"
_CHUNK = 16 << 20


class ArrayImages:
    """Images of arrays in files, read when they are taken: a slice is an array (n, C, H, W).

    Parameters
    ----------
    parts : sequence of (StoredArray, Scale)
        One after the other, each with its scale.
    kept : Values
        What becomes of the values.
    rows : numpy.ndarray, optional
        Which of their images these are; all if not given.
    """

    ndim = 4

    def __init__(
        self,
        parts: Sequence[tuple[StoredArray, Scale]],
        kept: Values,
        rows: np.ndarray | None = None,
    ) -> None:
        self.kept, self.dtype = kept, kept.numpy
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(array) for array, _ in parts)])
        self._rows = np.arange(self._starts[-1]) if rows is None else rows
        self._image_shape = _image_shape(parts[0][0])

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(n, C, H, W)."""
        channels, height, width = self._image_shape
        return (len(self._rows), channels, height, width)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, which: slice) -> np.ndarray:
        rows = self._rows[which]
        images = np.empty((len(rows), *self._image_shape), self.dtype)
        done = 0
        for run in np.split(rows, np.flatnonzero(np.diff(rows) != 1) + 1):
            for start, stop in self._within_parts(run):
                images[done : done + stop - start] = self._read(start, stop)
                done += stop - start
        return images

    def _within_parts(self, run: np.ndarray) -> Iterator[tuple[int, int]]:
        """A run of rows, cut where parts and chunks end."""
        start = int(run[0]) if len(run) else 0
        end = start + len(run)
        while start < end:
            part = int(np.searchsorted(self._starts, start, "right")) - 1
            stop = min(end, int(self._starts[part + 1]), start + _rows_of(self._parts[part][0]))
            yield start, stop
            start = stop

    def _read(self, start: int, stop: int) -> np.ndarray:
        part = int(np.searchsorted(self._starts, start, "right")) - 1
        array, scale = self._parts[part]
        first = int(self._starts[part])
        images = to_stored(array.rows(start - first, stop - first), scale, self.kept)
        if images.ndim == 3:
            return images[:, None]
        return images.transpose(0, 3, 1, 2) if _channels_last(array) else images


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
        _check(arrays, part, path)
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


def _check(arrays: Mapping[str, StoredArray], part: str, path: Path) -> None:
    """Refuse shapes that are no images."""
    images = arrays["images"]
    where = f"{path}: images of {part}"
    if len(images.shape) not in (3, 4):
        raise UserError(f"{where}: shape {images.shape}, expected (n, H, W) or with channels")
    if len(images.shape) == 4 and _channel_axis(images) is None:
        raise UserError(
            f"{where}: shape {images.shape}: which axis is the channels is not known; store "
            "(n, C, H, W) or (n, H, W, C) with C 1 or 3, or at most two thirds of H and W"
        )


def _channel_axis(images: StoredArray) -> int | None:
    """1 or 3; None where it cannot be known: the axis of 1 or 3, else a clearly smaller one."""
    _, first, middle, last = images.shape
    if last in (1, 3) and (first not in (1, 3) or middle > 3):
        return 3
    if first in (1, 3):
        return 1
    if 3 * first <= 2 * min(middle, last):
        return 1
    return 3 if 3 * last <= 2 * min(first, middle) else None


def _channels_last(images: StoredArray) -> bool:
    return len(images.shape) == 4 and _channel_axis(images) == 3


def _image_shape(images: StoredArray) -> tuple[int, int, int]:
    if len(images.shape) == 3:
        return (1, *images.shape[1:])
    _, first, second, third = images.shape
    return (third, first, second) if _channels_last(images) else (first, second, third)


def _axes(images: StoredArray) -> Iterator[str]:
    """What is said of the axes where another reading of them could be meant."""
    shape = ", ".join(map(str, images.shape[1:]))
    last = images.shape[-1]
    if len(images.shape) == 3:
        if last in (1, 3):
            yield (
                f"shape (n, {shape}) is read as (n, H, W): grey images {last} pixels wide, not as one "
                f"image of {last} channels"
            )
        return
    order = "(n, H, W, C)" if _channels_last(images) else "(n, C, H, W)"
    channels = _image_shape(images)[0]
    if channels not in (1, 3):
        yield f"shape (n, {shape}) is taken as images of {channels} channels, {order}"
    elif images.shape[1] in (1, 3) and last in (1, 3):
        yield f"shape (n, {shape}) could be read in two ways; it is read as {order}"


def _rows_of(images: StoredArray) -> int:
    """Images in a chunk."""
    if images.nbytes <= _CHUNK:
        return len(images)
    return max(1, _CHUNK // (images.nbytes // len(images)))


def _scales(
    found: Mapping[str, Mapping[str, StoredArray]], config: SourceConfig, path: Path
) -> tuple[dict[str, Scale], Values, list[str]]:
    """The scale of each part, one for all of a type; what is stored; what is to be said of both."""
    shapes = {part: _image_shape(arrays["images"]) for part, arrays in found.items()}
    if len(set(shapes.values())) > 1:
        raise UserError(f"{path}: images differ in shape: {shapes}")
    tallies: dict[np.dtype, Tally] = {}
    for arrays in found.values():
        images = arrays["images"]
        dtype = images.dtype.newbyteorder("=")
        if dtype.kind not in "biuf":
            raise UserError(f"{images.where}: numbers expected, not {images.dtype}")
        tally = tallies.setdefault(dtype, Tally(dtype))
        step = _rows_of(images)
        for start in range(0, len(images), step):
            tally.add(images.rows(start, min(start + step, len(images))))
    scales = {dtype: scale_for(config.scale, tally, str(path)) for dtype, tally in tallies.items()}
    lines = [said(tally, scales[dtype], str(path)) for dtype, tally in tallies.items()]
    of_part = {p: scales[a["images"].dtype.newbyteorder("=")] for p, a in found.items()}
    lines[:0] = {f"{path}: {line}" for a in found.values() for line in _axes(a["images"])}
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
