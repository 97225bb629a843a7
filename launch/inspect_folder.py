"""``vae-dist inspect``: show what a data folder holds.

Not named after its command: ``python launch/train.py`` puts this folder first on the module
path, where a file ``inspect.py`` would hide Python's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.folder import open_data
from data_pipeline.folder.describe import inspect, write_picture
from data_pipeline.folder.manifest import PICTURE_NAME
from data_pipeline.load.config import LoaderConfig
from data_pipeline.remote.reading import RemoteConfig, is_remote
from data_pipeline.values import Values
from launch.config import parse


@dataclass(kw_only=True)
class InspectConfig:
    """What is shown."""

    folder: tyro.conf.Positional[str] = ""
    """Data folder, or its address."""
    picture: Path | None = None
    """PNG of sample images to write; samples.png in a local data folder if not given."""
    json: bool = False
    """Print one JSON object and nothing else."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist inspect ARGV``; returns the exit code."""
    config, remote = parse(
        "inspect",
        [InspectConfig, RemoteConfig],
        argv,
        "Show a data folder: images by split and class, sizes, mean and std, where they came from.",
    )
    if not config.folder:
        raise UserError("inspect needs a data folder: vae-dist inspect DIR")
    loading = LoaderConfig(**vars(remote))
    record = inspect(config.folder, loading)
    picture = config.picture
    if picture is None and not is_remote(config.folder):
        picture = Path(config.folder.removeprefix("file://")) / PICTURE_NAME
    if picture is not None:
        with files_of_user(f"--picture {picture}: cannot be written", "choose another --picture"):
            write_picture(open_data(config.folder, config=loading), picture)
    record["picture"] = None if picture is None else str(picture)
    print(json.dumps(record) if config.json else "\n".join(_lines(record)))
    return 0


def _kind(record: dict[str, Any]) -> str:
    scale = record["scale"]
    return str(Values(record["dtype"], None if scale is None else (scale[0], scale[1])))


def _lines(record: dict[str, Any]) -> Iterator[str]:
    shape = "x".join(map(str, record["image_shape"]))
    yield f"{record['name']}: {shape} images ({_kind(record)}), layout {record['layout']}, in {record['path']}"
    names = list(record["splits"])
    for name, split in record["splits"].items():
        shards = f"{split['shards']} shard" + ("s" if split["shards"] != 1 else "")
        yield f"  {name:<6}{split['images']:>10,} images {shards:>11} {split['bytes'] / 1e6:>10,.1f} MB"
    classes = list(record["splits"][names[0]]["images_by_class"])
    if classes:
        width = max(5, *map(len, classes))
        yield f"  {'class':<{width}}" + "".join(f"{name:>10}" for name in names)
        for label in classes:
            counts = (record["splits"][name]["images_by_class"][label] for name in names)
            yield f"  {label:<{width}}" + "".join(f"{count:>10,}" for count in counts)
    yield (
        "  mean "
        + " ".join(f"{v:.4f}" for v in record["mean"])
        + ", std "
        + " ".join(f"{v:.4f}" for v in record["std"])
    )
    yield f"  fingerprint {record['fingerprint']}"
    settings = record["provenance"].get("settings", {})
    yield "  written with " + ", ".join(f"{k} {v}" for k, v in sorted(settings.items()))
    for key, value in sorted(record["provenance"].get("source", {}).items()):
        yield f"  source {key}: {value if isinstance(value, str) else json.dumps(value)}"
    if record["picture"]:
        yield f"  samples: {record['picture']}"
