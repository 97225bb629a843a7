"""Batches on a device.

torch's meta device stands for the GPU: it, too, refuses what mixes with tensors of the CPU.
"""

from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from data_pipeline.batch import Arrays, Batch
from data_pipeline.load.augment import AUGMENTATIONS, Augment
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.memory import MemoryLoader
from data_pipeline.load.prefetch import on_device, prefetch
from data_pipeline.order import World
from vae_dist.train.loaders import place_data


def held(count=20, **settings):
    images = np.arange(count, dtype=np.uint8).reshape(-1, 1, 1, 1)
    arrays = Arrays(images, np.arange(count), np.arange(count))
    config = LoaderConfig()
    for name, value in settings.items():
        setattr(config, name, value)  # unchecked: the meta device is no choice of a user's
    return MemoryLoader(arrays, 8, World(), 0, True, config)


HOST = ("index", "position")
"""What stays on the CPU: nothing on the device needs it."""


def tensors(batch):
    return {
        f.name: t for f in fields(Batch) if isinstance(t := getattr(batch, f.name), torch.Tensor)
    }


def devices(batch):
    return {name: t.device.type for name, t in tensors(batch).items()}


WHERE = {name: "cpu" if name in HOST else "meta" for name in (*HOST, "images", "labels")}


@pytest.mark.slow
def test_augment_stays_on_the_device():
    position = torch.arange(6)
    images = torch.zeros(6, 3, 9, 9, device="meta")
    batch = Batch(images, position, position, position, size=12, epoch=0, step=0)
    augmented = Augment(0, AUGMENTATIONS)(images, batch)
    assert augmented.device.type == "meta"
    assert augmented.shape == images.shape


def test_a_set_held_on_the_device_gives_batches_there():
    for batch in held(data_device="meta").batches():
        assert devices(batch) == WHERE
        assert batch.images.dtype == torch.uint8


def test_batches_go_to_the_device_in_order():
    plain = list(held().batches())
    for one, other in zip(on_device(held().batches(), torch.device("cpu")), plain, strict=True):
        assert all(torch.equal(t, tensors(other)[name]) for name, t in tensors(one).items())
    moved = list(on_device(held().batches(), torch.device("meta")))
    assert [len(b) for b in moved] == [8, 8, 4]
    assert all(devices(b) == WHERE for b in moved)


@pytest.mark.parametrize("depth", [1, 3])
def test_prefetch_keeps_order_and_raises_in_place(depth):
    def items():
        yield from range(5)
        raise KeyError("here")

    ahead = prefetch(items(), depth)
    assert [next(ahead) for _ in range(5)] == list(range(5))
    with pytest.raises(KeyError, match="here"):
        next(ahead)


def test_prefetch_stays_within_its_depth():
    made = []
    ahead = prefetch((made.append(i) or i for i in range(100)), 2)
    next(ahead)
    ahead.close()
    assert len(made) <= 1 + 2 + 2


@pytest.mark.parametrize(
    ("free", "place", "told"),
    [
        (10_000, "cuda", "held on the GPU: 1e-06 GB, within 10%"),
        (9_999, "cpu", "held not on the GPU"),
    ],
)
def test_images_are_held_on_the_gpu_where_they_take_a_tenth_of_its_memory(
    free, place, told, monkeypatch
):
    counts = {"train": SimpleNamespace(count=8), "val": SimpleNamespace(count=2)}
    data = SimpleNamespace(manifest=SimpleNamespace(image_bytes=100, splits=counts))
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda device: (free, 80_000))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    gpu = torch.device("cuda", 0)
    config, line = place_data(data, LoaderConfig(), gpu)
    assert config.held_on == place
    assert line.startswith(told)
    for settled in (LoaderConfig(data_device="cpu"), LoaderConfig(data_device="cuda")):
        assert place_data(data, settled, gpu) == (settled, "")
    streamed = LoaderConfig(memory_limit=1e-10)
    assert place_data(data, streamed, gpu)[0].held_on == "cpu"
    assert place_data(data, LoaderConfig(), torch.device("cpu")) == (LoaderConfig(), "")
