"""Labels of pictures from a table: CSV, JSON lines or parquet, a row a picture."""

from __future__ import annotations

import csv
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.sources.bounds import SMALL
from data_pipeline.sources.names import shown

if TYPE_CHECKING:
    from data_pipeline.sources.base import SourceConfig
    from data_pipeline.sources.pictures import Picture

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names that Hugging Face's image folders give to such tables."""
NAME_COLUMNS = ("file_name", "filename", "file", "image", "path", "name", "id")
LABEL_COLUMNS = ("label", "labels", "class", "target", "category", "y")


@dataclass(frozen=True)
class LabelFile:
    """Labels by the place of the picture.

    Attributes
    ----------
    where, column : str
        The file and the column that they come from.
    labels : dict of str to str
        Empty where the row has none.
    """

    where: str
    column: str
    labels: dict[str, str]

    @staticmethod
    def joined(files: Sequence[LabelFile]) -> LabelFile:
        """Several files as one."""
        labels: dict[str, str] = {}
        for file in files:
            labels |= file.labels
        where = ", ".join(file.where for file in files)
        return LabelFile(where, ", ".join(dict.fromkeys(f.column for f in files)), labels)

    def apply(self, picture: Picture) -> Picture:
        """The picture with its label, None where there is none."""
        return replace(picture, label=self._of(picture) or None)

    def _of(self, picture: Picture) -> str | None:
        place = unicodedata.normalize("NFC", picture.place)
        name = place.rsplit("/", 1)[-1]
        for key in (place, name, place.rpartition(".")[0], name.rpartition(".")[0]):
            if key in self.labels:
                return self.labels[key]
        return None

    def remarks(self, pictures: Sequence[Picture]) -> Iterator[str]:
        """What was read, and what does not fit."""
        labelled = sum(picture.label is not None for picture in pictures)
        rows = sum(label != "" for label in self.labels.values())
        yield f"labels of {labelled:,} of {len(pictures):,} files from {self.where}: {self.column}"
        if labelled < rows:
            yield f"warning: {rows - labelled:,} rows of {self.where} name files that are not there"


def read_labels(path: Path, folder: str, config: SourceConfig) -> LabelFile:
    """Read a table of labels.

    Parameters
    ----------
    path : Path
        A .csv, .tsv, .jsonl or .parquet file.
    folder : str
        What the file names are relative to, as a place in the source.
    config : SourceConfig
        ``image_field`` and ``label_field`` name the columns.

    Raises
    ------
    UserError
        If it cannot be read, or has no such columns.
    """
    where = shown(str(path))
    with files_of_user(f"{where}: cannot be read"):
        size = path.stat().st_size
        if not path.is_file() or size > SMALL:
            raise UserError(f"{where}: a table of at most {SMALL >> 20} MB is expected")
        try:
            rows = _READERS[path.suffix.lower()](path)
        except KeyError:
            raise UserError(f"{where}: expected .csv, .tsv, .jsonl or .parquet") from None
        except (ValueError, csv.Error, RecursionError) as error:
            reason = " ".join(str(error).split())[:150]
            raise UserError(f"{where}: damaged, or no such table ({reason})") from error
    if not rows:
        raise UserError(f"{where}: no rows")
    columns = list(rows[0])
    name = _column(columns, config.image_field, NAME_COLUMNS, "--image-field", where)
    label = _column(columns, config.label_field, LABEL_COLUMNS, "--label-field", where)
    prefix = f"{folder}/" if folder else ""
    labels: dict[str, str] = {}
    for row in rows:
        key = unicodedata.normalize("NFC", prefix + str(row.get(name, "")).replace("\\", "/"))
        word = _word(row.get(label))
        if labels.setdefault(key.removeprefix("./"), word) != word:
            raise UserError(f"{where}: {shown(key)} has two labels")
    return LabelFile(where, label, labels)


def _column(
    columns: Sequence[str], asked: str | None, usual: Sequence[str], flag: str, where: str
) -> str:
    if asked is not None and asked in columns:
        return asked
    found = [c for word in usual for c in columns if str(c).lower() == word]
    if asked is not None or not found:
        names = ", ".join(shown(str(c)) for c in columns[:20])
        raise UserError(f"{where}: columns are {names}; name the one to use with {flag}")
    return found[0]


def _word(value: Any) -> str:
    """A label as a name; "" for none. Whole floats (a column with gaps) are their numbers."""
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bool | dict | list):
        value = json.dumps(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = shown(unicodedata.normalize("NFC", str(value).strip()))
    return "" if text == "-1" else text


def _read_csv(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","))


def _read_jsonl(path: Path) -> list[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        rows = [json.loads(line) for line in file if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no object")
    return rows


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    from data_pipeline.sources.parquet_files import opened

    table = opened(path)
    plain = [
        column.name
        for column in table.schema_arrow
        if not str(column.type).startswith(("struct", "list", "large_list", "map"))
    ]
    return table.read(columns=plain).to_pylist()


_READERS = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
