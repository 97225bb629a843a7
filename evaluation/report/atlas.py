"""All test images with their maps as one Parquet file, for Embedding Atlas and other tools."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.files import whole_file
from data_pipeline.folder import DataFolder
from evaluation.artifacts import thumbnails
from evaluation.backends.pca import fit_pca
from evaluation.cache import Cache
from evaluation.figures.style import to_display
from evaluation.images import Images
from evaluation.pixels import Pixels
from evaluation.results.folder import Folder
from evaluation.results.layout import read_embedding

ROWS = 4096  # of a row group, which is in memory as a whole


def write_atlas(out_dir: Path, data: DataFolder, path: Path) -> list[str]:
    """Write one row for each test image.

    Columns: ``row`` among the test images, ``index`` in the source, ``split``, ``label`` (null: no
    class), ``image`` (``{"bytes": PNG}``, at most 64 pixels a side), and for each embedding ``NAME_x``
    and ``NAME_y``, its two dimensions or its first two principal axes, ``NAME_predicted`` by KNN and
    ``NAME_wrong`` (null without a label). NAME is the embedding's ID with ``_`` for other signs.

    Parameters
    ----------
    out_dir : Path
        A folder that holds ``results.json``, ``artifacts.npz`` and ``embeddings/``.
    data : DataFolder
        The images that were evaluated.
    path : Path
        The file; an older one is replaced.

    Returns
    -------
    list of str
        The NAMEs.

    Raises
    ------
    UserError
        If pyarrow is missing, the data are others, or the file cannot be written.
    """
    check_pyarrow(path)
    import pyarrow
    from pyarrow import parquet

    folder = Folder(Path(out_dir))
    if data.manifest.fingerprint != folder.results.data_fingerprint:
        raise UserError(f"--atlas {path}: {data.path} is not the data that {out_dir} was made from")
    test = Images(data, ["test"], Cache(Path(out_dir) / ".cache", fresh=True))
    classes = folder.results.classes
    columns: dict[str, Any] = {
        "row": np.arange(len(test)),
        "index": test.index,
        "split": ["test"] * len(test),
        "label": _names(test.labels, classes),
    }
    predicted = folder.named("predicted")
    names: list[str] = []
    for item in folder.results.embeddings:
        file = folder.path / "embeddings" / f"{item.id}.npz"
        if not file.is_file():  # raw pixels: PCA has their map
            continue
        names.append(name := _column(item.id, names))
        points = _map(read_embedding(file, folder.results, item.dim))
        columns |= {f"{name}_x": points[:, 0], f"{name}_y": points[:, 1]}
        if item.id in predicted:
            found = predicted[item.id]
            columns[f"{name}_predicted"] = _names(found, classes)
            wrong = pyarrow.array(found != test.labels, mask=test.labels < 0)
            columns[f"{name}_wrong"] = wrong
    table = pyarrow.table(columns)
    image = pyarrow.field("image", pyarrow.struct([("bytes", pyarrow.binary())]))
    with files_of_user(f"--atlas {path}: cannot be written", "free space there or name another"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            whole_file(path, durable=False) as stream,
            parquet.ParquetWriter(stream, table.schema.append(image)) as writer,
        ):
            for start in range(0, len(test), ROWS):
                rows = np.arange(start, min(start + ROWS, len(test)))
                pictures = [{"bytes": one} for one in _pngs(thumbnails(test, rows))]
                part = table.slice(start, len(rows))
                writer.write_table(part.append_column(image, pyarrow.array(pictures, image.type)))
    return names


def check_pyarrow(path: Path) -> None:
    """Refuse where the file could not be written; light, so that it comes before any work."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise UserError(
            f"--atlas {path}: Parquet needs pyarrow; pip install 'vae-dist[parquet]'"
        ) from None


def _names(codes: np.ndarray, classes: list[str]) -> list[str | None]:
    return [classes[code] if code >= 0 else None for code in codes.tolist()]


def _column(text: str, taken: list[str]) -> str:
    """An ID as a name that SQL takes without quotes, as the tool builds queries of it."""
    name = base = re.sub(r"\W", "_", text, flags=re.ASCII)
    number = 2
    while name in taken:
        name, number = f"{base}_{number}", number + 1
    return name


def _map(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """The test images in two dimensions."""
    train, test = arrays["train"], arrays["test"]
    if train.shape[1] > 2:
        test = fit_pca(Pixels(train), 2).transform(test, 2)
    return np.pad(test, ((0, 0), (0, 2 - test.shape[1])))


def _pngs(images: np.ndarray) -> list[bytes]:
    from PIL import Image

    found = []
    for shown in (to_display(images) * 255).round().astype(np.uint8):
        packed = io.BytesIO()
        Image.fromarray(shown).save(packed, "PNG")
        found.append(packed.getvalue())
    return found
