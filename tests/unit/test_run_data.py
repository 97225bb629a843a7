"""One rule says whether a run belongs to the data it is used on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import UserError
from tests.data_folders import ArraySource, drawn, written
from vae_dist.run.data import check_data, continue_on, describe_data


def source(**changes: object) -> ArraySource:
    return dataclasses.replace(drawn(), provenance={"content": "abc", "found": "here"}, **changes)


def test_the_same_data_pass_silently_whatever_their_shards(tmp_path: Path) -> None:
    one = written(tmp_path / "one", source())
    other = dataclasses.replace(source(), provenance={"content": "abc", "found": "there"})
    for name, settings in {
        "same": {},
        "shards": {"samples_per_shard": 20, "block_size": 5},
        "layout": {"layout": "sample", "mix": False},
    }.items():
        data = written(tmp_path / name, other, **settings)
        assert check_data("r", describe_data(one), data, allow=False) == ""
        assert "former" not in continue_on(describe_data(one), data)


def test_another_split_of_the_same_images_is_refused(tmp_path: Path) -> None:
    one = written(tmp_path / "one", source())
    other = written(tmp_path / "other", source(), fold=1)
    with pytest.raises(UserError, match="another split of the same images") as caught:
        check_data("runs/r", describe_data(one), other, allow=False)
    for part in ("runs/r", one.path, other.path, "fold 0 of 5", "fold 1 of 5"):
        assert part in str(caught.value)
    assert "--allow-other-data True" in str(caught.value)
    note = check_data("runs/r", describe_data(one), other, allow=True)
    assert "another split of the same images" in note


@pytest.mark.parametrize("change", ["pixel", "label", "provenance"])
def test_other_images_are_refused(tmp_path: Path, change: str) -> None:
    """Also where source and settings are said to be the same and the pixels are not."""
    one = written(tmp_path / "one", source())
    given = source()
    images, labels, index = (np.array(a) for a in given.splits["train"])
    images[:, 0, 4, 3] ^= np.uint8(change == "pixel")
    labels[labels == 0] = 1 if change == "label" else 0
    given.splits["train"] = type(given.splits["train"])(images, labels, index)
    if change == "provenance":
        given.provenance["content"] = "xyz"
        given.splits["test"].images[0] ^= 1
    other = written(tmp_path / "other", given)
    with pytest.raises(UserError, match=r"is (other images|another split)"):
        check_data("r", describe_data(one), other, allow=False)


def test_folders_that_say_nothing_of_their_source_go_by_the_fingerprint(tmp_path: Path) -> None:
    one = written(tmp_path / "one", drawn())
    assert check_data("r", describe_data(one), one, allow=False) == ""
    with pytest.raises(UserError, match="is other images"):
        check_data(
            "r", describe_data(one), written(tmp_path / "b", samples_per_shard=9), allow=False
        )


def test_what_a_run_was_trained_on_before_is_remembered(tmp_path: Path) -> None:
    one, other = written(tmp_path / "one", source()), written(tmp_path / "b", source(), fold=1)
    record = continue_on(describe_data(one), other)
    assert [former["path"] for former in record["former"]] == [one.path]
    assert "was trained on other data before" in check_data("r", record, other, allow=False)
    assert continue_on(record, other) == record
    with pytest.raises(UserError):
        check_data("r", record, one, allow=False)


def test_a_run_that_does_not_say_its_data_is_served_with_a_note(tmp_path: Path) -> None:
    data = written(tmp_path / "one", source())
    for record in ({}, {"mean": [0.5], "std": [0.5]}):
        assert "does not say" in check_data("old", record, data, allow=False)
        assert "former" not in continue_on(record, data)
