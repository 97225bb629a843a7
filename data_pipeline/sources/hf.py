"""Data sets of the Hugging Face Hub: by their id, or a folder of theirs that lies here."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from data_pipeline.errors import UserError
from data_pipeline.progress import Progress
from data_pipeline.sources.base import SourceConfig, SourceData
from data_pipeline.sources.folder import load_folder
from data_pipeline.sources.names import shown
from data_pipeline.sources.parquet import load_parquet
from data_pipeline.sources.walk import Walk

_ID = re.compile(r"[\w.-]+(/[\w.-]+)+")


def address_of(source: str) -> str:
    """The address of a data set's id, as in ``user/name`` or ``user/name/FOLDER``.

    What lies here under that name, and what is no id, is given back as it is.
    """
    is_id = _ID.fullmatch(source) and not Path(source).exists()
    return f"hf://datasets/{source}" if is_id else source


def load_hf(config: SourceConfig, progress: Progress) -> SourceData:
    """Read the parquet files of a data set's folder, or its pictures where it has none.

    Raises
    ------
    UserError
        If there is no folder, or its parquet files are of several configurations, each in a
        folder of its own.
    """
    root = config.path
    if not root.exists():
        raise UserError(
            f"--source {config.source}: no such folder, and no id; Fix: give USER/NAME of the Hub, "
            "or a folder"
        )
    files = [PurePosixPath(place) for place in Walk(root).files()] if root.is_dir() else []
    tables = [place for place in files if place.suffix.lower() == ".parquet"]
    if not tables and root.is_dir():
        return load_folder(config, progress)
    folders = sorted({str(place.parent) for place in tables})
    if len(folders) > 1:
        raise UserError(
            f"--source {config.source}: holds several configurations, each in a folder: "
            f"{', '.join(map(shown, folders[:10]))}; Fix: add one of them to --source"
        )
    return load_parquet(config, progress)
