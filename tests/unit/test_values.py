"""What a stored number means: kept as it came, and made a pixel in one place."""

import json

import numpy as np
import pytest
import torch

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.folder import open_data
from data_pipeline.folder.describe import inspect, write_picture
from data_pipeline.folder.manifest_file import dump_manifest, parse_manifest
from data_pipeline.folder.verify import verify
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from data_pipeline.sources import SourceConfig, load_source
from data_pipeline.values import DTYPES, Values
from data_pipeline.write.config import PrepareConfig
from data_pipeline.write.folder import write_folder
from tests.data_folders import ArraySource, written

RNG = np.random.default_rng(0)


class Lines(list[str]):
    def say(self, text: str) -> None:
        self.append(text)

    def advance(self, task: str, done: int, total: int | None) -> None:
        pass


KINDS = {
    "uint16": Values("uint16", (100.0, 4095.0)),
    "float16": Values("float16", (-1.0, 1.0)),
    "float32": Values("float32", (-2.0, 3.0)),
    "no pixels": Values("float32", None),
}
SHAPE = (2, 5, 4)


def _source(values: Values, counts: dict[str, int]) -> ArraySource:
    splits = {}
    for name, count in counts.items():
        drawn = RNG.normal(size=(count, *SHAPE))
        if values.dtype == "uint16":
            drawn = RNG.integers(0, 5000, (count, *SHAPE))
        splits[name] = Arrays(
            drawn.astype(values.numpy), np.arange(count) % 3, np.arange(count, dtype=np.int64)
        )
    source = ArraySource(splits, list("abc"))
    source.values = values
    return source


def _formula(stored: np.ndarray, values: Values) -> np.ndarray:
    if values.scale is None:
        return stored.astype(np.float64)
    low, high = values.scale
    return ((stored.astype(np.float64) - low) / (high - low)).clip(0, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["block", "sample"])
def test_every_loader_hands_out_the_stored_values_and_the_pixels_of_the_formula(
    tmp_path, kind, layout
):
    values = KINDS[kind]
    source = _source(values, {"train": 90, "test": 20})
    data = written(
        tmp_path / "data", source, layout=layout, block_size=8, samples_per_shard=20, mix=True
    )
    assert verify(str(tmp_path / "data")) == []
    stored = source.splits["train"].images
    pixels = _formula(stored, values)
    configs = [
        LoaderConfig(loader="memory"),
        LoaderConfig(loader="stream"),
        LoaderConfig(loader="stream", workers=2, lanes=6),
    ]
    for config in configs[: 3 if layout == "block" else 2]:
        for shuffle in (True, False):
            seen = []
            for rank in range(2):
                loader = make_loader(
                    data, "train", config, World(rank, 2), batch_size=16, shuffle=shuffle
                )
                for batch in loader.batches():
                    assert str(batch.images.dtype) == f"torch.{values.dtype}"
                    assert np.array_equal(batch.images.numpy(), stored[batch.index.numpy()])
                    made = values.to_float(batch.images).numpy()
                    assert made.dtype == np.float32
                    np.testing.assert_allclose(made, pixels[batch.index.numpy()], atol=1e-6)
                    seen += batch.index.tolist()
            held = np.concatenate([data.arrays("train").index, data.arrays("val").index])
            assert sorted(seen) == data.arrays("train").index.tolist()
            assert sorted(held) == list(range(90))
    train = pixels[data.arrays("train").index]
    np.testing.assert_allclose(data.manifest.mean, train.mean((0, 2, 3)), atol=1e-6)
    np.testing.assert_allclose(data.manifest.std, train.std((0, 2, 3)), atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_and_tensors_become_the_same_floats(dtype):
    for scale in ((0.0, 255.0), (3.0, 200.0), None):
        values = Values(dtype, scale)
        stored = RNG.uniform(-20, 400, 999).clip(0, 255).astype(values.numpy)
        kept = stored.copy()
        floats = values.to_float32(stored)
        assert np.array_equal(floats, values.to_float(torch.from_numpy(stored)).numpy())
        assert np.array_equal(stored, kept)
    bytes_ = RNG.integers(0, 256, 999, dtype=np.uint8)
    assert np.array_equal(Values().to_float32(bytes_), bytes_.astype(np.float32) / 255)
    assert torch.equal(
        Values().to_float(torch.from_numpy(bytes_)), torch.from_numpy(bytes_).float().div_(255.0)
    )


def test_bytes_are_still_written_as_version_3_and_other_values_refused_by_older_programs(tmp_path):
    data = written(tmp_path / "bytes")
    record = json.loads((tmp_path / "bytes" / "manifest.json").read_text())
    assert record["version"] == 3
    assert not {"dtype", "scale"} & record.keys()
    assert data.manifest.values == Values()
    written(tmp_path / "wide", _source(KINDS["uint16"], {"train": 20, "test": 5}))
    file = tmp_path / "wide" / "manifest.json"
    record = json.loads(file.read_text())
    assert (record["version"], record["dtype"], record["scale"]) == (4, "uint16", [100, 4095])
    for change, fault in (
        ({"version": 3}, "dtype and scale are of version 4"),
        ({"dtype": "int64"}, "dtype 'int64': expected one of uint8, uint16, float16, float32"),
        ({"scale": [5, 5]}, "the first value must be below the second"),
        ({"scale": [0, 4096]}, "its checksum is another"),
        ({"version": 5}, "manifest version 5 is newer than this program reads"),
    ):
        with pytest.raises(UserError, match=fault):
            parse_manifest(json.dumps(record | change), str(file))
    assert dump_manifest(open_data(tmp_path / "wide").manifest) == file.read_text()


def test_another_scale_of_the_same_values_is_another_data_set(tmp_path):
    source = _source(KINDS["float32"], {"train": 20, "test": 5})
    first = written(tmp_path / "a", source)
    source.values = Values("float32", (0.0, 1.0))
    second = written(tmp_path / "b", source)
    assert first.manifest.fingerprint != second.manifest.fingerprint
    with pytest.raises(UserError, match="overwrite"):
        write_folder(source, tmp_path / "a", PrepareConfig(writers=1))


def test_the_bytes_do_not_depend_on_the_number_of_writers(tmp_path):
    source = _source(KINDS["float16"], {"train": 60, "test": 9})
    for name, writers in (("one", 1), ("three", 3)):
        written(tmp_path / name, source, writers=writers, samples_per_shard=8, block_size=4)
    one, three = (
        {f.name: f.read_bytes() for f in (tmp_path / n).iterdir()} for n in ("one", "three")
    )
    assert one == three


def test_a_damaged_value_is_noticed(tmp_path):
    data = written(tmp_path / "data", _source(KINDS["uint16"], {"train": 20, "test": 5}))
    shard = tmp_path / "data" / data.manifest.splits["train"].shards[0].name
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    assert any("damaged shard" in fault for fault in verify(str(tmp_path / "data")))


def test_pictures_of_them_are_shown_by_their_scale_and_of_no_pixels_refused(tmp_path):
    from PIL import Image

    values = Values("uint16", (0.0, 4095.0))
    images = np.full((20, 1, 6, 6), 2048, np.uint16)
    parts = {name: Arrays(images, np.full(20, -1), np.arange(20)) for name in ("train", "test")}
    source = ArraySource(parts, [])
    source.values = values
    data = written(tmp_path / "data", source)
    write_picture(data, tmp_path / "p.png")
    assert np.asarray(Image.open(tmp_path / "p.png"))[3, 3] == 128
    assert inspect(str(tmp_path / "data"))["scale"] == [0, 4095]
    latents = written(tmp_path / "latents", _source(KINDS["no pixels"], {"train": 20, "test": 5}))
    with pytest.raises(UserError, match="no pixels: there is nothing to show"):
        write_picture(latents, tmp_path / "q.png")


@pytest.mark.parametrize(
    ("stored", "settings", "dtype", "scale", "said"),
    [
        (RNG.integers(0, 4096, (20, 6, 5), dtype=np.uint16), {}, "uint16", (0, 4095), "as they"),
        (
            RNG.random((20, 6, 5)).astype(np.float16),
            {"dtype": "float16"},
            "float16",
            (0, 1),
            "as they are",
        ),
        (RNG.random((20, 6, 5)), {"dtype": "float32"}, "float32", (0, 1), "rounded"),
        (RNG.random((20, 6, 5)), {}, "uint8", (0, 255), "floats, stored as 256 levels"),
        (RNG.integers(0, 256, (20, 6, 5)), {}, "uint8", (0, 255), None),
        (RNG.integers(0, 256, (20, 6, 5)).astype(np.float32), {}, "uint8", (0, 255), None),
        (RNG.integers(-9, 99, (20, 6, 5)), {"scale": "0,90"}, "float32", (0, 90), "as they are"),
        (RNG.random((20, 6, 5)), {"dtype": "uint16"}, "uint16", (0, 65535), "mapped to 0 to 65535"),
        (RNG.random((20, 6, 5)), {"dtype": "uint8"}, "uint8", (0, 255), None),
    ],
)
def test_auto_keeps_integers_and_stores_floats_as_bytes(
    tmp_path, stored, settings, dtype, scale, said
):
    np.save(tmp_path / "x.npy", stored)
    lines = Lines()
    data = load_source(
        SourceConfig(dataset="npz", source=str(tmp_path / "x.npy"), **settings), lines
    )
    assert (data.values.dtype, data.values.scale) == (dtype, scale)
    images = np.concatenate([data.splits[name].images[:] for name in ("train", "test")])[:, 0]
    index = np.concatenate([data.splits[name].index for name in ("train", "test")])
    assert images.dtype == dtype
    if said is None:
        assert "stored as" not in "\n".join(lines)
    else:
        assert said in "\n".join(lines)
    if said == "as they are" or dtype == "uint8" == str(stored.dtype):
        assert np.array_equal(images, stored[index])
    wide = data.values.to_float32(images)
    low, high = (0, 255) if stored.max() > 1 else (0, 1)
    if "scale" not in settings and dtype != "uint16":
        np.testing.assert_allclose(wide, (stored[index] - low) / (high - low), atol=1 / 255)


def test_pictures_of_several_types_are_kept_as_floats_of_0_to_1(tmp_path):
    from PIL import Image

    wide = RNG.integers(0, 65536, (6, 5), dtype=np.uint16)
    wide[0, 0] = 65535
    grey = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
    for n in range(3):
        Image.fromarray(wide).save(tmp_path / f"{n}.png")
        Image.fromarray(grey).save(tmp_path / f"{n + 3}.png")
    lines = Lines()
    data = load_source(SourceConfig(dataset="folder", source=str(tmp_path)), lines)
    assert data.values == Values("float32", (0.0, 1.0))
    assert "stored as float32, the values mapped to 0 to 1" in "\n".join(lines)
    for part in data.splits.values():
        for row, index in enumerate(part.index):
            wanted = wide / 65535 if index < 3 else grey / 255
            np.testing.assert_allclose(part.images[row : row + 1][0, 0], wanted, atol=1e-7)


def test_resized_16_bit_pictures_keep_their_depth(tmp_path):
    from PIL import Image

    for n in range(6):
        Image.fromarray(np.full((8, 8), 40_001 + n, np.uint16)).save(tmp_path / f"{n}.png")
    config = SourceConfig(dataset="folder", source=str(tmp_path), image_size=4)
    data = load_source(config, Lines())
    for part in data.splits.values():
        assert part.images[:].dtype == np.uint16
        assert (part.images[:] == 40_001 + part.index[:, None, None, None]).all()
