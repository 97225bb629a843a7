"""Sources at addresses: prepared and encoded to the same bytes as from this machine's disk."""

import io
import json
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.folder import open_data
from launch.cli import main
from tests.data_folders import drawn, written
from tests.integration.faulty_server import faulty_server
from tests.run_folders import write_run
from tests.s3 import s3_server

RNG = np.random.default_rng(5)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """TMPDIR of its own, which has to be empty again at the end."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    assert list(place.iterdir()) == []


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in class folders, the same as a webdataset tar, and as an array."""
    root = tmp_path_factory.mktemp("elsewhere")
    images = RNG.integers(0, 256, (24, 8, 8), dtype=np.uint8)
    np.savez(root / "set.npz", images=images, labels=np.arange(24) % 2)
    with tarfile.open(root / "set.tar", "w") as tar:
        for n, image in enumerate(images):
            path = root / "pictures" / ("cat", "dog")[n % 2] / f"{n:02} ä.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
            for name, content in (("png", path.read_bytes()), ("cls", str(n % 2).encode())):
                member = tarfile.TarInfo(f"{n:04}.{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return root


@pytest.fixture(scope="module")
def bucket(pictures: Path) -> Iterator[str]:
    """A real S3 server (moto's) on 127.0.0.1 that holds them."""
    pytest.importorskip("moto.server")
    import boto3

    with s3_server() as address:
        client = boto3.client("s3", endpoint_url=address)
        client.create_bucket(Bucket="raw")
        for path in pictures.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), "raw", f"sets/{path.relative_to(pictures)}")
        yield "s3://raw/sets"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("run")
    return str(write_run(root / "run", written(root / "data", drawn(shape=(1, 8, 8)))))


def prepare(source: str, out: Path, dataset: str, *words: str) -> dict[str, bytes]:
    assert (
        main(["prepare", "--dataset", dataset, "--source", source, "--out", str(out), *words]) == 0
    )
    return {path.name: path.read_bytes() for path in out.glob("*.tar")}


@pytest.mark.parametrize(
    ("name", "dataset"), [("pictures", "folder"), ("set.tar", "webdataset"), ("set.npz", "npz")]
)
def test_prepared_from_s3_as_from_the_disk(
    name: str,
    dataset: str,
    pictures: Path,
    bucket: str,
    tmp_path: Path,
    temporary: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = prepare(str(pictures / name), tmp_path / "here", dataset)
    capsys.readouterr()
    assert here == prepare(f"{bucket}/{name}", tmp_path / "there", dataset)
    said = capsys.readouterr()
    assert f"{bucket}/{name}: 19 train, 5 test images" in said.out + said.err
    assert str(temporary) not in said.out + said.err
    one, other = (open_data(tmp_path / place).manifest for place in ("here", "there"))
    assert one.provenance["key"] == other.provenance["key"]
    assert other.provenance["source"]["found"] == f"{bucket}/{name}"
    assert one.name == other.name


def test_a_file_over_http_is_resumed_and_its_signature_not_kept(tmp_path: Path) -> None:
    images = RNG.integers(0, 256, (4000, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images)
    with faulty_server() as server:
        content = (tmp_path / "set.npz").read_bytes()
        server.delay = 0.05  # what has arrived is read before the cut throws it away
        server.files["set.npz?signature=SECRET"] = content
        server.fail("set.npz?signature=SECRET", ("cut", 200_000))
        here = prepare(str(tmp_path / "set.npz"), tmp_path / "here", "npz")
        assert here == prepare(f"{server.url}/set.npz?signature=SECRET", tmp_path / "there", "npz")
        first, second = server.gets("set.npz?signature=SECRET")
        assert first is None
        assert second is not None
    text = (tmp_path / "there" / "manifest.json").read_text()
    assert json.loads(text)["provenance"]["source"]["found"].startswith(f"{server.url}/set.npz")
    assert "SECRET" not in text


def test_what_cannot_be_had_is_one_line(
    bucket: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with faulty_server() as server:
        for source, fault in (
            (f"{server.url}/none.npz", "none.npz: not found"),
            (f"{server.url}/folder", "a folder cannot be listed over http; give the address of"),
            (f"{bucket}/nothing", "no file there"),
            (f"{bucket}/set.tar", f"--source {bucket}/set.tar: no such folder"),
        ):
            words = ["--dataset", "folder", "--source", source, "--out", str(tmp_path / "out")]
            assert main(["prepare", *words, "--download-retries", "0"]) == 2
            lines = capsys.readouterr().err.splitlines()
            (line,) = [text for text in lines if text.startswith("vae-dist: error: ")]
            assert fault in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["pictures", "set.tar", "set.npz"])
def test_encoded_from_s3_as_from_the_disk(
    name: str, pictures: Path, bucket: str, run: str, tmp_path: Path
) -> None:
    found = {}
    for place, images in (("here", str(pictures / name)), ("there", f"{bucket}/{name}")):
        out = tmp_path / f"{place}.npz"
        assert main(["encode", "--run", run, "--images", images, "--out", str(out)]) == 0
        with np.load(out) as held:
            found[place] = {column: held[column] for column in held.files}
    assert len(found["here"]["mu"]) == 24
    for column in ("mu", "logvar", "labels", "index"):
        np.testing.assert_array_equal(found["here"][column], found["there"][column])
    if name == "pictures":
        there = [str(n).removeprefix(f"{bucket}/") for n in found["there"]["names"]]
        assert there == [str(n).removeprefix(f"{pictures}/") for n in found["here"]["names"]]
    if name == "set.tar":
        assert found["there"]["names"].tolist() == [f"set.tar/{n:04}" for n in range(24)]


def test_a_folder_of_tars_is_encoded(pictures: Path, run: str, tmp_path: Path) -> None:
    (tmp_path / "tars").mkdir()
    (tmp_path / "tars" / "a.tar").write_bytes((pictures / "set.tar").read_bytes())
    out = tmp_path / "z.npz"
    words = ["--images", str(tmp_path / "tars"), "--out", str(out)]
    assert main(["encode", "--run", run, *words]) == 0
    with np.load(out) as held:
        assert held["labels"].tolist() == [n % 2 for n in range(24)]
