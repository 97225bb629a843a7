"""A password and a signature in a data address reach no file and no line of the whole path."""

import functools
import logging
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from launch.cli import main
from tests.data_folders import digits, written

SECRETS = ("SECRETPASS", "SECRETSIG")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture
def address(tmp_path):
    """A data folder served by HTTP, at an address with both kinds of secrets."""
    written(tmp_path / "served" / "d", digits())
    server = ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(tmp_path / "served"))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://user:{SECRETS[0]}@127.0.0.1:{server.server_address[1]}/d?sig={SECRETS[1]}"
    server.shutdown()


def test_secrets_of_an_address_are_neither_stored_nor_shown(
    tmp_path, address, capfd, monkeypatch, caplog
):
    caplog.set_level(logging.WARNING)
    cache = ["--cache-dir", str(tmp_path / "cache"), "--remote-retries", "0"]
    run = tmp_path / "runs" / "x"
    trained = [
        "train",
        "--data",
        address,
        *cache,
        "--runs-dir",
        str(tmp_path / "runs"),
        "--name",
        "x",
    ]
    trained += ["--epochs", "1", "--model-type", "fc", "--latent-size", "2", "--batch-size", "512"]
    out, quick = (
        ["--out", str(tmp_path / "eval")],
        ["--protocol", "quick", "--methods", "pca", "vae"],
    )
    nowhere = address.replace("/d?", "/nope?")
    for words, code in (
        (["verify", address, *cache], 0),
        (["inspect", address, *cache, "--json"], 0),
        (trained, 0),
        ([*trained, "--epochs", "2", "--resume", "auto"], 0),
        (["train", "--data", nowhere, *cache, "--runs-dir", str(tmp_path / "runs")], 2),
        (["verify", nowhere, *cache], 1),
        (["evaluate", "--runs", str(run), *out, "--data", address, *quick], 0),
        (["sample", "--run", str(run), "--out", str(tmp_path / "s")], 2),
        (["sample", "--run", str(run), "--data", address, "--out", str(tmp_path / "s")], 0),
    ):
        monkeypatch.setattr("sys.argv", ["vae-dist", *words])
        assert main(words) == code, capfd.readouterr()
    said = capfd.readouterr()
    assert "the password or signature of this address is not kept" in said.err
    found = [
        file
        for file in tmp_path.rglob("*")
        if file.is_file() and any(secret.encode() in file.read_bytes() for secret in SECRETS)
    ]
    assert found == []
    for secret in SECRETS:
        assert secret not in said.out + said.err + caplog.text
    assert '"path": "http://***@127.0.0.1' in (run / "config.json").read_text()
