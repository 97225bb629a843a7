"""Sprites are drawn from their factors: the same everywhere, and the factors are found again."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from data_pipeline.errors import UserError
from data_pipeline.folder.factors import factors_of, values_of
from data_pipeline.sources import SourceConfig, load_source
from data_pipeline.sources.sprites import FACTORS, Sprites, _sprite
from tests.data_folders import written


def image(size=64, **values):
    place = [values.get(name, 0) for name in FACTORS]
    index = np.ravel_multi_index(place, tuple(FACTORS.values()))
    return Sprites(np.array([index]), size)[0:1][0, 0].astype(float)


def test_pixels_are_those_of_every_machine() -> None:
    """One sum over a sample of all combinations, so that another machine would show."""
    images = Sprites(np.arange(0, 737_280, 4999), 32)[:]
    assert hashlib.sha256(images.tobytes()).hexdigest()[:16] == "bf87ead9c496fd2f"


@pytest.mark.parametrize("size", [16, 32, 64, 100])
def test_each_factor_does_what_its_name_says(size) -> None:
    for shape in range(3):
        low, high = (image(size, shape=shape, scale=s) for s in (0, 5))
        assert 3.3 < high.sum() / low.sum() < 4.8  # twice as wide and high
        centres = [
            np.argwhere(image(size, shape=shape, scale=5, x=x, y=y) > 0).mean(0)
            for x, y in ((0, 0), (16, 0), (0, 16))
        ]
        assert np.allclose(centres[1] - centres[0], [0, size / 4], atol=0.51)
        assert np.allclose(centres[2] - centres[0], [size / 4, 0], atol=0.51)
        corner = image(size, shape=shape, scale=5, x=31, y=31, orientation=10)
        assert corner.sum() == pytest.approx(high.sum(), rel=0.1)  # nothing is cut off
    upright, quarter = (_sprite(2, 5, turn, size) for turn in (0, 10))
    assert np.array_equal(np.rot90(upright, -1), quarter)
    assert len({image(size, shape=s, scale=5).tobytes() for s in range(3)}) == 3


def test_folder_holds_the_factors_of_each_image(tmp_path) -> None:
    """The index that travels with an image is enough to find its factors and to draw it again."""
    config = SourceConfig(dataset="sprites", sprites=300, sprites_seed=7, image_size=16)
    data = written(tmp_path / "one", load_source(config))
    again = written(tmp_path / "two", load_source(config), writers=2)
    assert data.manifest.fingerprint == again.manifest.fingerprint
    other = written(tmp_path / "three", load_source(replace(config, sprites_seed=8)))
    assert data.manifest.fingerprint != other.manifest.fingerprint
    assert factors_of(data.manifest) == FACTORS
    assert data.manifest.classes == ["square", "ellipse", "heart"]
    counts = [data.manifest.splits[name].count for name in ("train", "val", "test")]
    assert counts == [192, 48, 60]
    for split in ("train", "val", "test"):
        arrays = data.arrays(split)
        values = values_of(FACTORS, arrays.index)
        assert np.array_equal(values[:, 0], arrays.labels)
        assert np.array_equal(Sprites(arrays.index, 16)[:], arrays.images)


@pytest.mark.parametrize(
    "bad",
    [
        {"x": 2},
        ["x"],
        [["x"]],
        [["x", -1]],
        [["x", 2.0]],
        [["x", True]],
        [["x", 2**31]],
        [[2, "x"]],
        [["x", 2], ["x", 3]],
        [["x", 2]] * 65,
        [[letter, 2**21] for letter in "abc"],
    ],
)
def test_factors_that_make_no_grid_are_refused(bad, tmp_path) -> None:
    config = SourceConfig(dataset="sprites", sprites=60, image_size=16)
    manifest = written(tmp_path / "one", load_source(config)).manifest
    manifest.provenance["source"]["factors"] = bad
    with pytest.raises(UserError, match="factors"):
        factors_of(manifest)
    with pytest.raises(UserError, match="outside the 2 combinations"):
        values_of({"x": 2}, np.array([0, 2]))


@pytest.mark.parametrize("wrong", [{"image_size": 8}, {"image_size": 300}, {"sprites": 5}])
def test_wrong_sizes_are_refused_in_one_line(wrong) -> None:
    with pytest.raises(UserError, match=r"image-size|sprites"):
        load_source(SourceConfig(dataset="sprites", **wrong))
