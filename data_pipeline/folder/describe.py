"""What a data folder holds, as a record and as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder, open_data
from data_pipeline.load.config import LoaderConfig
from data_pipeline.redact import shown

_COLUMNS = 10
_ROWS = 20
_TILE = 56  # pixels at least, for small images
_BLOCKS = 8
_MOST = 1024  # images of a block
_LARGEST = 256  # pixels; of larger images every second or third pixel is shown


def inspect(path: str, config: LoaderConfig | None = None) -> dict[str, Any]:
    """Describe a data folder from its manifest; fit for JSON.

    Parameters
    ----------
    path : str
        The folder, or its address.
    config : LoaderConfig, optional
        How to read it.
    """
    data = open_data(path, config=config)
    manifest = data.manifest
    splits = {
        name: {
            "images": split.count,
            "shards": len(split.shards),
            "bytes": sum(shard.bytes for shard in split.shards),
            "images_by_class": dict(zip(manifest.classes, split.class_counts, strict=True)),
        }
        for name, split in manifest.splits.items()
    }
    return {
        "path": shown(data.path),
        "name": manifest.name,
        "image_shape": list(manifest.image_shape),
        "dtype": manifest.dtype,
        "scale": None if manifest.scale is None else list(manifest.scale),
        "layout": manifest.layout,
        "block_size": manifest.block_size,
        "splits": splits,
        "mean": manifest.mean,
        "std": manifest.std,
        "fingerprint": manifest.fingerprint,
        "provenance": manifest.provenance,
    }


def write_picture(data: DataFolder, path: Path) -> None:
    """Write a PNG of training images: a row a class, or just rows where there are none.

    Reads a few blocks only, so a rare class may have an empty row.
    """
    from PIL import Image

    if not data.manifest.values.are_pixels:
        raise UserError(f"{data.path}: holds {data.manifest.values}: there is nothing to show")
    images, labels = _some_images(data)
    rows = _rows(images, labels, data.manifest.num_classes)
    channels, height, width = images.shape[1:]
    grid = np.full((channels, len(rows) * height, _COLUMNS * width), 255, np.uint8)
    for row, chosen in enumerate(rows):
        for column, image in enumerate(chosen):
            top, left = row * height, column * width
            grid[:, top : top + height, left : left + width] = image
    pixels = grid.transpose(1, 2, 0) if channels == 3 else grid[0]
    picture = Image.fromarray(pixels)
    scale = max(1, round(_TILE / max(height, width)))
    size = (picture.width * scale, picture.height * scale)
    picture.resize(size, Image.Resampling.NEAREST).save(path, "PNG")


def _some_images(data: DataFolder) -> tuple[np.ndarray, np.ndarray]:
    blocks = [
        (shard, number)
        for shard in data.manifest.splits["train"].shards
        for number in range(len(shard.offsets) - 1)
    ]
    step = max(1, len(blocks) // _BLOCKS)
    _, height, width = data.manifest.image_shape
    thin = -(-max(height, width) // _LARGEST)
    images, labels = [], []
    for block in blocks[::step][:_BLOCKS]:
        (part,) = data.read_blocks([block])
        shown = data.manifest.values.to_bytes(part.images[:_MOST, :, ::thin, ::thin])
        images.append(shown.copy())
        labels.append(part.labels[:_MOST])
    if not images:
        raise UserError(f"{data.path}: has no training images to show")
    return np.concatenate(images), np.concatenate(labels)


def _rows(images: np.ndarray, labels: np.ndarray, classes: int) -> list[np.ndarray]:
    if classes:
        return [images[labels == label][:_COLUMNS] for label in range(min(classes, _ROWS))]
    return [images[start : start + _COLUMNS] for start in range(0, len(images), _COLUMNS)][:_ROWS]
