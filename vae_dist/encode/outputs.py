"""Where results go: .npz, .parquet, a data folder, or a folder of PNGs.

A result is a table: columns by name, each an array of one row an image. Every kind of output
keeps finished pieces as files and joins them in order, one at a time.
"""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.files import sync, whole_file
from data_pipeline.write.building import publish
from vae_dist.encode.rows import Piece, Rows

Columns = dict[str, np.ndarray]


class Output(ABC):
    """One kind of result at one place."""

    suffix = ".npz"

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))

    def holds(self, parts: Path, piece: Piece) -> bool:
        """Whether a piece is finished."""
        return (parts / f"{piece.name}{self.suffix}").is_file()

    def keep(self, parts: Path, piece: Piece, columns: Columns) -> None:
        """Keep a finished piece."""
        with whole_file(parts / f"{piece.name}{self.suffix}", parts) as file:
            np.savez(file, allow_pickle=False, **columns)

    @abstractmethod
    def is_ours(self) -> bool:
        """Whether what lies there may be overwritten: it is a result of this kind."""

    @abstractmethod
    def key_of_present(self) -> str | None:
        """The key of the result that lies there; None if there is none to be read."""

    @abstractmethod
    def join(self, rows: Rows, parts: Path, partial: Path, about: dict[str, Any]) -> None:
        """Put the pieces together, beside, then in place."""

    def pieces(self, rows: Rows, parts: Path) -> Iterator[tuple[Piece, Columns]]:
        """The finished pieces in order, one in memory at a time."""
        for piece in rows.pieces():
            with np.load(parts / f"{piece.name}{self.suffix}", allow_pickle=False) as held:
                yield piece, {name: held[name] for name in held.files}


class Npz(Output):
    """One .npz file; ``about`` in it is JSON."""

    def is_ours(self) -> bool:
        return self.path.is_file() and zipfile.is_zipfile(self.path)

    def key_of_present(self) -> str | None:
        try:
            with np.load(self.path, allow_pickle=False) as held:
                return json.loads(str(held["about"])).get("key")
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            return None

    def join(self, rows: Rows, parts: Path, partial: Path, about: dict[str, Any]) -> None:
        files = [parts / f"{piece.name}{self.suffix}" for piece in rows.pieces()]
        split = np.repeat(list(rows.splits), list(rows.splits.values()))
        with (
            whole_file(self.path, partial) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive,
        ):
            with np.load(files[0], allow_pickle=False) as first:
                names = first.files
            for name in names:
                self._write_column(archive, name, files)
            small = {
                "split": split,
                "classes": np.array(rows.classes, dtype=str),
                "about": np.array(json.dumps(about, sort_keys=True)),
            }
            for name, array in small.items():
                with _member(archive, name) as member:
                    np.lib.format.write_array(member, array, (1, 0), allow_pickle=False)

    def _write_column(self, archive: zipfile.ZipFile, name: str, files: list[Path]) -> None:
        """One column of all pieces, read twice where its type has to be found first."""
        types, count, shape = set(), 0, ()
        for file in files:
            with np.load(file, allow_pickle=False) as held:
                array = held[name]
            types.add(array.dtype)
            count += len(array)
            shape = array.shape[1:]
        dtype = np.result_type(*types)  # the longest of several lengths of text
        with _member(archive, name) as member:
            header = {"descr": dtype.str, "fortran_order": False, "shape": (count, *shape)}
            np.lib.format.write_array_header_1_0(member, header)
            for file in files:
                with np.load(file, allow_pickle=False) as held:
                    member.write(np.ascontiguousarray(held[name].astype(dtype)).data)


def _member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    return archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True)


class Parquet(Output):
    """One Parquet file: a row group a piece; arrays of a row are lists of fixed size."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise UserError(
                f"--out {path}: Parquet needs pyarrow; pip install 'vae-dist[parquet]'"
            ) from None

    def is_ours(self) -> bool:
        return self.path.is_file() and self.path.read_bytes()[:4] == b"PAR1"

    def key_of_present(self) -> str | None:
        import pyarrow.parquet

        try:
            kept = pyarrow.parquet.read_schema(self.path).metadata or {}
            return json.loads(kept[b"vae_dist"]).get("key")
        except (OSError, ValueError, KeyError):
            return None

    def join(self, rows: Rows, parts: Path, partial: Path, about: dict[str, Any]) -> None:
        import pyarrow
        import pyarrow.parquet

        writer = None
        with whole_file(self.path, partial) as file:
            for piece, columns in self.pieces(rows, parts):
                about = {"classes": rows.classes, **about}
                shapes = {name: list(array.shape[1:]) for name, array in columns.items()}
                note = json.dumps({**about, "shapes": shapes}, sort_keys=True)
                table = pyarrow.table(
                    {name: _arrow(array) for name, array in columns.items()}
                    | {"split": pyarrow.array([piece.split] * piece.count)}
                ).replace_schema_metadata({"vae_dist": note})
                if writer is None:
                    writer = pyarrow.parquet.ParquetWriter(file, table.schema)
                writer.write_table(table, row_group_size=max(1, piece.count))
            assert writer is not None
            writer.close()


def _arrow(array: np.ndarray) -> Any:
    import pyarrow

    if array.dtype.kind == "U":
        return pyarrow.array(array.tolist(), pyarrow.string())
    if array.ndim == 1:
        return pyarrow.array(array)
    flat = pyarrow.array(np.ascontiguousarray(array).reshape(-1))
    return pyarrow.FixedSizeListArray.from_arrays(flat, int(np.prod(array.shape[1:])))


class Pictures(Output):
    """A folder of PNGs, named as the files that the rows came from, or by split and position."""

    NOTE = "about.json"

    def is_ours(self) -> bool:
        return (self.path / self.NOTE).is_file()

    def key_of_present(self) -> str | None:
        try:
            return json.loads((self.path / self.NOTE).read_text(encoding="utf-8")).get("key")
        except (OSError, ValueError):
            return None

    def join(self, rows: Rows, parts: Path, partial: Path, about: dict[str, Any]) -> None:
        build = partial / "pictures"
        shutil.rmtree(build, ignore_errors=True)
        for piece, columns in self.pieces(rows, parts):
            (build / piece.split).mkdir(parents=True, exist_ok=True)
            for row, image in enumerate(columns["images"]):
                stem = f"{int(columns['index'][row]):09d}"
                if "names" in columns:
                    stem += "-" + Path(str(columns["names"][row])).stem
                _write_png(build / piece.split / f"{stem}.png", image)
        (build / self.NOTE).write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")
        sync(build)
        publish(build, self.path, partial)


def _write_png(path: Path, image: np.ndarray) -> None:
    from PIL import Image

    modes = {1: "L", 3: "RGB", 4: "RGBA"}
    if image.shape[0] not in modes:
        raise UserError(
            f"images of {image.shape[0]} channels cannot be written as PNGs; give --out NAME.npz"
        )
    pixels = image[0] if image.shape[0] == 1 else np.ascontiguousarray(image.transpose(1, 2, 0))
    Image.fromarray(pixels, modes[image.shape[0]]).save(path)
