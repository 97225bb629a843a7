"""What the arrays of an evaluation folder must look like."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipeline.errors import UserError
from evaluation.files import read_arrays
from evaluation.results.records import Results

# Name, or what stands before the slash: dtype, then sizes. A letter stands for one size
# throughout a file; C, H and W are an image's, K the number of classes.
_ARTIFACTS = {
    "sample_images": "u1 n C h w",
    "sample_labels": "i8 n",
    "sample_position": "i8 n",
    "sample_predicted": "i8 n",
    "predicted": "i8 test",
    "map": "f4 n 2",
    "map_train": "f4 m 2",
    "map_train_position": "i8 m",
    "confusion": "i8 K K",
    "originals": "u1 o C H W",
    "reconstruction": "u1 o C H W",
    "samples": "u1 * C H W",
    "traversal": "u1 * 9 C H W",
    "traversal_latent": "i8 *",
    "interpolation": "u1 * 9 C H W",
}
_LABELS = {
    "train_labels": "i8 train",
    "test_labels": "i8 test",
    "train_index": "i8 train",
    "test_index": "i8 test",
    "classes": "U K",
}
_FIX = "run vae-dist evaluate again"


def read_artifacts(path: Path, results: Results) -> dict[str, np.ndarray]:
    """Read ``artifacts.npz``.

    Raises
    ------
    UserError
        If an array is not what the layout says; names the file and the array.
    """
    arrays = read_arrays(path)
    _check(arrays, _ARTIFACTS, results, path)
    named = {item.id for item in results.embeddings} | {run.name for run in results.runs}
    for name in arrays:
        _, _, of = name.partition("/")
        if of and of not in named and not (name.startswith("reconstruction/pca-")):
            raise UserError(f"{path}: {name}: results.json knows no {of}; {_FIX}")
    for name, split in (("sample_position", "test"), ("map_train_position", "train")):
        _check_range(arrays.get(name), results.counts.get(split, 0), f"{path}: {name}")
    for name, array in arrays.items():
        if name.startswith(("sample_predicted", "predicted")):
            _check_range(array, len(results.classes), f"{path}: {name}")
        if name.startswith("confusion") and array.min(initial=0) < 0:
            raise UserError(f"{path}: {name}: holds counts below 0; {_FIX}")
    _check_range(arrays.get("sample_labels"), len(results.classes), f"{path}: sample_labels", -1)
    return arrays


def read_labels(path: Path, results: Results) -> dict[str, np.ndarray]:
    """Read ``embeddings/labels.npz``; raises as `read_artifacts` does."""
    arrays = read_arrays(path)
    _check(arrays, _LABELS, results, path)
    return arrays


def read_embedding(path: Path, results: Results, dim: int) -> dict[str, np.ndarray]:
    """Read ``embeddings/ID.npz``; raises as `read_artifacts` does."""
    arrays = read_arrays(path)
    _check(arrays, {"train": f"f4 train {dim}", "test": f"f4 test {dim}"}, results, path)
    if missing := sorted({"train", "test"} - arrays.keys()):
        raise UserError(f"{path}: {missing[0]} is missing; {_FIX}")
    return arrays


def _check(
    arrays: Mapping[str, np.ndarray], layout: Mapping[str, str], results: Results, path: Path
) -> None:
    shape = dict(zip("CHW", results.image_shape, strict=True))
    sizes = {**shape, **results.counts, "K": len(results.classes)}
    for name, array in arrays.items():
        wanted = layout.get(name.partition("/")[0])
        if wanted is None:
            raise UserError(f"{path}: {name}: not an array that is known here; {_FIX}")
        kind, *letters = wanted.split()
        fits = array.dtype.str[1:].startswith(kind) and array.ndim == len(letters)
        for letter, size in zip(letters, array.shape, strict=False):
            want = size if letter == "*" else int(letter) if letter.isdigit() else sizes.get(letter)
            fits &= want is None or want == size
            if fits and letter != "*":
                sizes.setdefault(letter, size)
        if not fits:
            raise UserError(f"{path}: {name}: is {array.dtype} {array.shape}, not {wanted}; {_FIX}")
        if kind == "f4" and not np.isfinite(array).all():
            raise UserError(f"{path}: {name}: is not finite; {_FIX}")


def _check_range(array: np.ndarray | None, stop: int, where: str, start: int = 0) -> None:
    if array is None or not array.size:
        return
    if array.min() < start or array.max() >= stop:
        raise UserError(
            f"{where}: holds {array.min()} to {array.max()}, expected below {stop}; {_FIX}"
        )
