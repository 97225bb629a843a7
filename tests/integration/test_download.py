import gzip
import hashlib
import io
import struct
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.remote.transfer import Patience, TransferError, fetch, read_bytes
from data_pipeline.sources import SourceConfig, load_source
from data_pipeline.sources.download import DownloadError, download, sum_fault
from tests.integration.faulty_server import FaultyServer, faulty_server

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
QUICK = Patience(timeout=1.0, retries=2, delay=0.01)
CONTENT = np.random.default_rng(0).bytes(8_000_000)
LOST = 768 << 10  # what a cut connection may take with it: the HTTP library's buffer


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as state:
        yield state


def _offset(range_header: str | None) -> int:
    return int(range_header.removeprefix("bytes=").rstrip("-")) if range_header else 0


class Lines:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.tasks: list[tuple[str, int, int | None]] = []

    def say(self, text: str) -> None:
        self.lines.append(text)

    def advance(self, task: str, done: int, total: int | None) -> None:
        self.tasks.append((task, done, total))


def test_a_cut_download_goes_on_where_it_stopped(server, tmp_path):
    server.files["f"] = CONTENT
    server.fail("f", ("cut", 1_000_000), ("status", 500), ("cut", 1_000_000))
    fetch(f"{server.url}/f", tmp_path / "part", QUICK)
    assert (tmp_path / "part").read_bytes() == CONTENT
    first, second, third, fourth = map(_offset, server.gets("f"))
    assert first == 0
    assert 1_000_000 - LOST <= second <= 1_000_000
    assert third == second
    assert second + 1_000_000 - LOST <= fourth <= second + 1_000_000


def test_a_stalled_download_is_given_up_and_resumed(server, tmp_path):
    server.files["f"] = CONTENT
    server.fail("f", ("stall", 700_000))
    fetch(f"{server.url}/f", tmp_path / "part", QUICK)
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert server.gets("f") == [None, "bytes=700000-"]


def test_a_server_without_ranges_is_read_from_the_start(server, tmp_path):
    server.ranges = False
    server.files["f"] = CONTENT
    server.fail("f", ("cut", 1_000_000))
    fetch(f"{server.url}/f", tmp_path / "part", QUICK)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_many_cuts_are_survived_as_long_as_bytes_arrive(server, tmp_path):
    server.files["f"] = CONTENT
    server.fail("f", *[("cut", 1_500_000)] * 7)
    fetch(f"{server.url}/f", tmp_path / "part", QUICK)
    assert (tmp_path / "part").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_started_over(server, tmp_path):
    server.files["f"] = CONTENT
    (tmp_path / "part").write_bytes(b"x" * 8_500_000)
    fetch(f"{server.url}/f", tmp_path / "part", QUICK)
    assert (tmp_path / "part").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("faults", "expected", "requests"),
    [
        ([("status", 404)], "not found", 1),
        ([("status", 403)], "answered 403", 1),
        ([("status", 500)] * 9, "answered 500; tried 3 times", 3),
        ([("stall", 0)] * 9, "no answer in time; tried 3 times", 3),
    ],
)
def test_a_failed_transfer_says_why(server, tmp_path, faults, expected, requests):
    server.files["f"] = CONTENT
    server.fail("f", *faults)
    patience = Patience(timeout=0.3, retries=2, delay=0.01)
    with pytest.raises(TransferError, match=expected):
        fetch(f"{server.url}/f", tmp_path / "part", patience)
    assert len(server.gets("f")) == requests


def test_retry_after_is_heeded(server):
    server.files["f"] = b"content"
    server.fail("f", ("retry-after", 1))
    assert read_bytes(f"{server.url}/f", QUICK) == b"content"


def test_nobody_listens():
    with pytest.raises(TransferError, match="tried 3 times"):
        read_bytes("http://127.0.0.1:9/f", QUICK)


def _sha_fault(path: Path) -> str | None:
    return sum_fault(path, "sha256", hashlib.sha256(CONTENT).hexdigest())


def test_the_next_mirror_is_tried_and_a_wrong_file_never_gets_its_name(server, tmp_path):
    server.files = {"wrong/f": b"not it", "good/f": CONTENT}
    config = SourceConfig(download_timeout=1.0, download_retries=0)
    target, heard = tmp_path / "f", Lines()
    mirrors = [f"{server.url}/missing", f"{server.url}/wrong"]
    with pytest.raises(DownloadError, match=r"missing/f: not found; .*wrong/f: SHA256 is"):
        download("f", mirrors, target, _sha_fault, config, heard)
    assert not target.exists()
    assert not target.with_name("f.part").exists()
    url = download("f", [*mirrors, f"{server.url}/good/"], target, _sha_fault, config, heard)
    assert url == f"{server.url}/good/f"
    assert target.read_bytes() == CONTENT
    assert heard.tasks[-1] == ("downloading f", len(CONTENT), len(CONTENT))


def test_a_half_of_another_file_is_thrown_away(server, tmp_path):
    server.files = {"f": CONTENT}
    (tmp_path / "f.part").write_bytes(b"another file's beginning")
    config = SourceConfig(download_timeout=1.0)
    download("f", [server.url], tmp_path / "f", _sha_fault, config, Lines())
    assert (tmp_path / "f").read_bytes() == CONTENT
    assert server.gets("f") == ["bytes=24-", None]


def test_processes_that_want_one_file_fetch_it_once(server, tmp_path):
    server.files = {"f": CONTENT}
    server.delay = 0.02
    config = SourceConfig(download_timeout=5.0)

    def want() -> None:
        download("f", [server.url], tmp_path / "f", _sha_fault, config, Lines())

    threads = [threading.Thread(target=want) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.gets("f")) == 1


def _idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def _small_mnist(prefix: str) -> dict[str, bytes]:
    rng = np.random.default_rng(1)
    files = {}
    for part, count in (("train", 30), ("t10k", 12)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        files[f"{prefix}{part}-images-idx3-ubyte.gz"] = gzip.compress(_idx(images))
        files[f"{prefix}{part}-labels-idx1-ubyte.gz"] = gzip.compress(_idx(labels))
    return files


def test_a_mirror_of_our_own_serves_a_whole_set(server, tmp_path):
    server.files = _small_mnist("base/")
    server.fail("base/train-images-idx3-ubyte.gz", ("cut", 9000), ("status", 503))
    config = SourceConfig(
        dataset="kmnist",
        mirror=f"{server.url}/base",
        download_dir=tmp_path,
        download_timeout=1.0,
        check_sums=False,
    )
    data = load_source(config)
    assert data.splits["train"].images.shape == (30, 1, 28, 28)
    assert list(data.splits["test"].labels[:3]) == [0, 1, 2]
    before = len(server.requests)
    load_source(config)
    assert len(server.requests) == before


def _small_emnist(split: str, first_label: int, classes: int) -> dict[str, bytes]:
    rng = np.random.default_rng(2)
    files = {}
    for part, count in (("train", 60), ("test", 20)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        images[0] = 0
        images[0, 3, 20] = 255  # stored with rows and columns exchanged
        labels = (np.arange(count) % classes + first_label).astype(np.uint8)
        name = f"emnist-{split}-{part}"
        files[f"gzip/{name}-images-idx3-ubyte.gz"] = gzip.compress(_idx(images))
        files[f"gzip/{name}-labels-idx1-ubyte.gz"] = gzip.compress(_idx(labels))
    return files


@pytest.mark.parametrize(
    ("split", "first_label", "classes"),
    [("letters", 1, 26), ("balanced", 0, 47), ("digits", 0, 10), ("byclass", 0, 62)],
)
def test_emnist_comes_out_of_its_archive(server, tmp_path, split, first_label, classes):
    files = _small_emnist(split, first_label, classes)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    server.files["gzip.zip"] = packed.getvalue()
    settings = {"dataset": f"emnist-{split}", "check_sums": False}
    downloaded = load_source(
        SourceConfig(mirror=server.url, download_dir=tmp_path / "kept", **settings)
    )
    train = downloaded.splits["train"]
    assert len(downloaded.classes) == classes
    assert train.labels[:3].tolist() == [0, 1, 2]
    assert train.images[0, 0, 20, 3] == 255
    assert train.images[0].sum() == 255
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    (tmp_path / "own.zip").write_bytes(packed.getvalue())
    for source in (tmp_path, tmp_path / "own.zip"):
        data = load_source(SourceConfig(source=source, **settings))
        assert np.array_equal(data.splits["test"].images, downloaded.splits["test"].images)
    (tmp_path / "own.zip").write_bytes(packed.getvalue()[:5000])
    with pytest.raises(ValueError, match="damaged zip file"):
        load_source(SourceConfig(source=tmp_path / "own.zip", **settings))


def test_torchvisions_folders_are_known_and_unpacked_files_are_said_to_be_unchecked(tmp_path):
    raw = tmp_path / "KMNIST" / "raw"
    raw.mkdir(parents=True)
    for name, content in _small_mnist("").items():
        (raw / name.removesuffix(".gz")).write_bytes(gzip.decompress(content))
    heard = Lines()
    data = load_source(SourceConfig(dataset="kmnist", source=tmp_path), heard)
    assert len(data.splits["train"].labels) == 30
    assert any("not checked: no sum is published" in line for line in heard.lines)


def test_a_damaged_earlier_download_is_replaced(server, tmp_path):
    server.files = _small_mnist("")
    config = SourceConfig(
        dataset="kmnist", mirror=server.url, download_dir=tmp_path, check_sums=False
    )
    before = load_source(config).splits["test"].images
    kept = tmp_path / "kmnist" / "t10k-images-idx3-ubyte.gz"
    kept.write_bytes(kept.read_bytes()[:500])
    heard = Lines()
    with pytest.raises(ValueError, match="damaged gzip file"):
        load_source(SourceConfig(dataset="kmnist", source=kept.parent, check_sums=False))
    assert np.array_equal(load_source(config, heard).splits["test"].images, before)
    assert any("passed over a bad copy" in line for line in heard.lines)


def test_other_images_under_a_known_name_are_refused(server, tmp_path):
    for name, content in _small_mnist("").items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte has SHA-256 .*fetch it again"):
        load_source(SourceConfig(dataset="mnist", source=tmp_path))


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_real_fashion_mnist_plain_and_packed_passes_the_sums(tmp_path):
    data = load_source(SourceConfig(dataset="fmnist"))
    assert data.provenance["found"] == str(DEBIAN)
    for path in DEBIAN.glob("*.gz"):
        (tmp_path / path.stem).write_bytes(gzip.decompress(path.read_bytes()))
    plain = load_source(SourceConfig(dataset="fmnist", source=tmp_path))
    assert np.array_equal(plain.splits["test"].images, data.splits["test"].images)
    assert plain.provenance["files"] == data.provenance["files"]
    whole = (tmp_path / "t10k-labels-idx1-ubyte").read_bytes()
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(whole[:-1] + b"\x00")
    with pytest.raises(ValueError, match="SHA-256"):
        load_source(SourceConfig(dataset="fmnist", source=tmp_path))
