"""Whole files of every kind the program reads, small, each in a folder of its own."""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np

from evaluation.cache import Cache
from tests.data_folders import drawn, written

TRAINING = {
    "model_type": "fc", "latent_size": 2, "epochs": 2, "batch_size": 32, "log_every": 1,
    "telemetry_interval": 0.05, "tensorboard": False, "checkpoint_every": 2,
}  # fmt: skip

CACHED = [{"metric": "knn_test_accuracy", "value": 0.5, "k": 5}]
CACHED_ARRAY = np.eye(3, dtype=np.float32)


def flags(settings: dict[str, object]) -> list[str]:
    """Settings as words of a command line."""
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def build(place: Path) -> None:
    """Write all base folders below `place`."""
    small = {"samples_per_shard": 32, "block_size": 8}
    for layout in ("block", "sample"):
        written(place / layout / "data", drawn(60, 20, shape=(1, 6, 6)), layout=layout, **small)
    _arrays(place / "arrays")
    _idx(place / "idx")
    _pictures(place / "pictures")
    _states(place / "article2018")
    _settings(place / "settings")
    _run(place / "run", place / "block" / "data")
    _remote(place / "remote", place / "block" / "data")
    _latents(place / "latents")
    _evaluation(place / "evaluation", place / "run")


def _arrays(folder: Path) -> None:
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (30, 5, 5), dtype=np.uint8)
    labels = np.arange(30) % 3
    np.savez(folder / "set.npz", images=images, labels=labels)
    np.save(folder / "images.npy", images)
    np.save(folder / "labels.npy", labels)


def _idx(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, count in (("train", 40), ("t10k", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8).tobytes()
        head = struct.pack(">4I", 2051, count, 28, 28)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(head + images)
        labels = struct.pack(">2I", 2049, count) + bytes(i % 10 for i in range(count))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    packed = folder.parent / "idx-gz"
    packed.mkdir()
    for file in folder.iterdir():
        (packed / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes(), 1, mtime=0))


PICTURES = {
    "png": ("L", {}), "jpg": ("RGB", {}), "gif": ("P", {}), "bmp": ("RGB", {}),
    "tif": ("L", {}), "webp": ("RGB", {}),
}  # fmt: skip


def _pictures(folder: Path) -> None:
    from PIL import Image

    rng = np.random.default_rng(0)
    for number in range(8):
        pixels = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        path = folder / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).convert("L").save(path)
    for ending, (mode, options) in PICTURES.items():
        Image.fromarray(pixels).convert(mode).save(folder / "cat" / f"victim.{ending}", **options)


def _states(folder: Path) -> None:
    import torch

    folder.mkdir()
    sizes = {
        "fc1": (400, 784),
        "fc21": (2, 400),
        "fc22": (2, 400),
        "fc3": (400, 2),
        "fc4": (784, 400),
    }
    torch.manual_seed(0)
    state = {f"{n}.weight": 0.05 * torch.randn(s) for n, s in sizes.items()}
    state |= {f"{n}.bias": 0.05 * torch.randn(s[0]) for n, s in sizes.items()}
    content = {
        "epoch": 3,
        "state_dict": state,
        "optimizer": {"state": {}, "param_groups": [{"params": []}]},
    }
    torch.save(content, folder / "new.pth.tar")
    torch.save(content, folder / "old.pth.tar", _use_new_zipfile_serialization=False)


def _settings(folder: Path) -> None:
    folder.mkdir()
    rows = [
        'model-type = "fc"',
        "latent-size = 4",
        "epochs = 3",
        "lr = 1e-3",
        "tensorboard = false",
    ]
    rows += ['name = "a"', "batch-size = 32", 'dataset = "digits"']
    (folder / "settings.toml").write_text("\n".join(rows) + "\n")


def _run(folder: Path, data: Path) -> None:
    from launch.train import main

    folder.mkdir()
    shutil.copytree(data, folder / "data")
    settings = TRAINING | {"data": folder / "data", "runs_dir": folder, "name": "run"}
    assert main(flags(settings)) == 0


def _remote(folder: Path, data: Path) -> None:
    """A data folder, and its first shard in the cache as if it had been fetched."""
    from data_pipeline.folder.opening import open_data
    from data_pipeline.remote.reading import RemoteConfig, local_path

    shutil.copytree(data, folder / "data")
    shard = open_data(str(data)).manifest.split("train").shards[0]
    config = RemoteConfig(cache_dir=folder / "cache")
    serve(folder / "data")
    found = local_path(
        f"memory://data/{shard.name}", sha256=shard.sha256, size=shard.bytes, config=config
    )
    found.rename(folder / "cache" / "object")
    found.with_suffix(".json").rename(folder / "cache" / "record")


def serve(folder: Path) -> None:
    """Make a folder's files known to fsspec as memory://data/NAME."""
    import fsspec

    served = fsspec.filesystem("memory")
    for file in folder.iterdir():
        served.pipe_file(f"/data/{file.name}", file.read_bytes())


def _latents(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    columns = {
        "mu": rng.normal(size=(20, 2)).astype(np.float32),
        "index": np.arange(20),
        "label": np.arange(20) % 3,
    }
    np.savez(folder / "latents.npz", **columns)
    np.save(folder / "latents.npy", columns["mu"])


def _evaluation(folder: Path, run: Path) -> None:
    from sklearn.datasets import load_digits

    from tests.integration.report.conftest import write_folder

    bunch = load_digits()
    images = (bunch.images * 15.9375).astype(np.uint8)[:, None]
    parts = ((images[:300], bunch.target[:300]), (images[300:400], bunch.target[300:400]))
    write_folder(folder / "eval", *parts, [str(c) for c in range(10)], sample=50)
    cache = Cache(folder / "cache")
    cache.keep_record("knn", "k" * 32, CACHED)
    cache.keep_arrays("pca", "k" * 32, {"train": CACHED_ARRAY})
    shutil.copytree(run / "run", folder / "run", symlinks=True)
