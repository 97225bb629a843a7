"""How other libraries write and read the same images, for the benchmark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.folder import DataFolder


def _paths(data: DataFolder) -> list[str]:
    return [data.location(shard) for shard in data.manifest.splits["train"].shards]


def webdataset_blocks(data: DataFolder) -> int:
    import webdataset

    dataset = webdataset.WebDataset(_paths(data), shardshuffle=False).decode()
    return sum(len(sample["labels.npy"]) for sample in dataset)


def webdataset_images(data: DataFolder, batch_size: int, workers: int) -> int:
    import webdataset

    form = "l8" if data.manifest.image_shape[0] == 1 else "rgb8"
    dataset = webdataset.WebDataset(_paths(data), shardshuffle=False).shuffle(1000)
    dataset = dataset.decode(form).to_tuple("png", "cls").batched(batch_size)
    loader = webdataset.WebLoader(dataset, batch_size=None, num_workers=workers)
    return sum(len(labels) for _, labels in loader)


def _pngs(data: DataFolder) -> Iterator[tuple[str, bytes, int]]:
    """Key, PNG and label of every training image, as the shards hold them."""
    import webdataset

    for sample in webdataset.WebDataset(_paths(data), shardshuffle=False):
        yield sample["__key__"], sample["png"], int(sample["cls"])


def write_pictures(data: DataFolder, root: Path) -> Path:
    for key, png, label in _pngs(data):
        folder = root / f"{label:04d}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{key}.png").write_bytes(png)
    return root


def torchvision_folder(root: Path, batch_size: int, workers: int) -> int:
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import PILToTensor

    dataset = ImageFolder(str(root), PILToTensor())
    loader = DataLoader(dataset, batch_size, shuffle=True, num_workers=workers)
    return sum(len(labels) for _, labels in loader)


def write_mds(data: DataFolder, root: Path) -> Path:
    from streaming import MDSWriter

    with MDSWriter(out=str(root), columns={"image": "bytes", "label": "int"}) as writer:
        for _, png, label in _pngs(data):
            writer.write({"image": png, "label": label})
    return root


def mosaicml_streaming(root: Path, batch_size: int, workers: int) -> int:
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    class Pictures(StreamingDataset):
        def __getitem__(self, at: int) -> tuple[Any, int]:
            sample = super().__getitem__(at)
            return _decoded(sample["image"]), sample["label"]

    dataset = Pictures(local=str(root), shuffle=True, batch_size=batch_size)
    loader: Any = DataLoader(dataset, batch_size, num_workers=workers)
    return sum(len(labels) for _, labels in loader)


def write_litdata(data: DataFolder, root: Path) -> Path:
    from litdata.streaming.writer import BinaryWriter

    root.mkdir()
    writer = BinaryWriter(str(root), chunk_bytes="64MB")
    for number, (_, png, label) in enumerate(_pngs(data)):
        writer.add_item(number, {"image": png, "label": label})
    writer.done()
    writer.merge()
    return root


def litdata_streaming(root: Path, batch_size: int, workers: int) -> int:
    from litdata import StreamingDataLoader, StreamingDataset

    class Pictures(StreamingDataset):
        def __getitem__(self, at: Any) -> tuple[Any, int]:
            sample = super().__getitem__(at)
            return _decoded(sample["image"]), sample["label"]

    loader: Any = StreamingDataLoader(
        Pictures(str(root), shuffle=True),
        batch_size=batch_size,
        num_workers=workers,
    )
    return sum(len(labels) for _, labels in loader)


def _decoded(png: bytes) -> np.ndarray:
    import io

    from PIL import Image

    with Image.open(io.BytesIO(png)) as picture:
        return np.array(picture)
