"""Passwords and signatures of addresses are hidden; what names the data stays."""

import pickle

import pytest

from data_pipeline.errors import UserError
from data_pipeline.redact import is_shown, scrub, scrub_parts, scrubbed, shown
from data_pipeline.remote.transfer import TransferError


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("data/fmnist", "data/fmnist"),
        ("s3://bucket/set", "s3://bucket/set"),
        ("hf://datasets/a/b@main/x", "hf://datasets/a/b@main/x"),
        ("http://127.0.0.1:80/a@b", "http://127.0.0.1:80/a@b"),
        ("https://user:SECRET@host:8080/d", "https://***@host:8080/d"),
        ("https://SECRET@host/d", "https://***@host/d"),
        ("https://user:SE/CR@ET@host/d", "https://***@host/d"),
        ("https://user:SEC?RET@host/d", "https://***@host/d"),
        ("https://host/d?X-Amz-Signature=SECRET", "https://host/d?***"),
        ("https://host/d?v=1&sig=SECRET#token=SECRET", "https://host/d?***"),
        ("simplecache::https://u:SECRET@host/d?a", "simplecache::https://***@host/d?***"),
    ],
)
def test_what_is_shown_of_an_address(address, said):
    assert shown(address) == said
    assert is_shown(said) == (said != address)
    text = f"cannot read {address}: not found ({address}); see '{address}'."
    assert scrub(text) == f"cannot read {said}: not found ({said}); see '{said}'."
    assert scrubbed({"a": [address, 1, None]}) == {"a": [said, 1, None]}


def test_errors_hide_secrets_also_when_they_come_from_another_process():
    for kind in (UserError, TransferError):
        error = pickle.loads(pickle.dumps(kind("https://u:SECRET@host/d: not found")))
        assert str(error) == "https://***@host/d: not found"


def test_the_parts_of_an_address_are_hidden_in_what_a_library_says() -> None:
    said = scrub_parts("s3://key:SECRET@b/x?sig=S2", "bucket key:SECRET@b: no; at x?sig=S2")
    assert said == "bucket ***@b: no; at x?***"
    assert scrub_parts("s3://b/x", "bucket b") == "bucket b"
