"""Opening parquet files: what their ends promise is compared with what is there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.sources.bounds import refuse_bomb
from data_pipeline.sources.names import shown


def opened(path: Path) -> Any:
    """A parquet file, of which the end was read."""
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise UserError(
            f'{path}: parquet needs pyarrow; pip install "vae-dist[parquet]"'
        ) from error
    try:
        table = parquet.ParquetFile(path, pre_buffer=False)
        for group in range(table.num_row_groups):
            facts = table.metadata.row_group(group)
            for column in range(facts.num_columns):
                chunk = facts.column(column)
                packed = min(chunk.total_compressed_size, path.stat().st_size)
                refuse_bomb(shown(str(path)), packed, chunk.total_uncompressed_size)
    except (arrow.ArrowException, OSError) as error:
        raise UserError(f"{shown(str(path))}: damaged ({short_of(error)})") from error
    return table


def short_of(error: Exception) -> str:
    """An error of pyarrow's in a line."""
    return shown(" ".join(str(error).split()))[:150]
