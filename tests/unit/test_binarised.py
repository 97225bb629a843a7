"""Static binarisation draws each pixel once, the same wherever the image lies."""

import numpy as np
import pytest

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.sources import SourceConfig, load_source
from data_pipeline.sources.base import SourceData
from data_pipeline.sources.binarised import BinarisedImages, binarised
from data_pipeline.values import Values
from tests.data_folders import written

LEVELS = np.repeat(np.arange(256, dtype=np.uint8), 400).reshape(16, 1, 80, 80)


def test_a_pixel_is_white_as_often_as_its_level_says():
    pixels = BinarisedImages(LEVELS, "train")[:]
    assert set(np.unique(pixels)) == {0, 255}
    share = pixels.reshape(256, 400).mean(1) / 255
    assert share[0] == 0
    assert share[255] == 1
    assert np.abs(share - np.arange(256) / 255).max() < 4.5 * 0.5 / 20
    assert np.abs(share - np.arange(256) / 255).mean() < 0.02


def test_an_image_is_the_same_alone_and_among_others_and_differs_by_split():
    images = BinarisedImages(LEVELS, "train")
    whole = images[:]
    assert np.array_equal(images[np.array([9, 3])], whole[[9, 3]])
    assert np.array_equal(images[5:6], whole[5:6])
    assert not np.array_equal(BinarisedImages(LEVELS, "test")[:], whole)


def test_a_folder_of_binarised_digits(tmp_path):
    """The draw does not depend on how the set is written; labels and order are as they were."""
    config = SourceConfig(dataset="digits", binarise=True)
    one = written(tmp_path / "one", load_source(config))
    two = written(tmp_path / "two", load_source(config), fold=1, writers=2, block_size=7)
    grey = written(tmp_path / "grey", load_source(SourceConfig(dataset="digits")))
    assert one.manifest.provenance["key"] != grey.manifest.provenance["key"]
    a, b, g = (folder.arrays("test") for folder in (one, two, grey))
    assert set(np.unique(a.images)) == {0, 255}
    assert np.array_equal(a.images, b.images)
    assert np.array_equal(a.labels, g.labels)
    assert abs(a.images.mean() - g.images.mean()) < 1


def test_other_values_than_bytes_are_refused():
    part = Arrays(np.zeros((1, 1, 8, 8), np.float32), np.zeros(1, np.int64), np.zeros(1, np.int64))
    data = SourceData("waves", {"train": part}, ["a"], values=Values("float32", (0.0, 1.0)))
    with pytest.raises(UserError, match="--binarise: reads grey levels of 8 bits, and waves"):
        binarised(data)
