"""Other people's files of each kind: written here for real, read to the pixels of a formula."""

import bz2
import csv
import io
import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import UserError
from data_pipeline.sources import SourceConfig, SourceData, load_source

RNG = np.random.default_rng(0)


class Lines(list[str]):
    def say(self, text: str) -> None:
        self.append(text)

    def advance(self, task: str, done: int, total: int | None) -> None:
        pass


def _load(dataset: str, source: Path, **settings) -> tuple[SourceData, str]:
    heard = Lines()
    config = SourceConfig(dataset=dataset, source=str(source), **settings)
    return load_source(config, heard), "\n".join(heard)


def _whole(data: SourceData) -> tuple[np.ndarray, list[str]]:
    """All images in their order in the source, and the names of their classes."""
    parts = [data.splits[name] for name in ("train", "test")]
    order = np.argsort(np.concatenate([part.index for part in parts]), kind="stable")
    images = np.concatenate([part.images[:] for part in parts])[order]
    labels = np.concatenate([part.labels for part in parts])[order]
    return images, [data.classes[label] if label >= 0 else "" for label in labels]


def _picture(value: int, kind: str = "png") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((6, 5, 3), value, np.uint8)).save(stream, kind)
    return stream.getvalue()


def _flat(folder: Path, count: int = 10) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for n in range(count):
        (folder / f"{n}.png").write_bytes(_picture(100 + n))


def _pet(n: int) -> str:
    return ("cat", "dog")[n % 2]


def _write_table(path: Path, rows: list[dict[str, object]]) -> None:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".parquet":
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("beside", [True, False])
def test_labels_stand_in_a_table(tmp_path, suffix, beside):
    root = tmp_path / "set"
    _flat(root)
    rows = [{"file_name": f"{n}.png", "label": _pet(n)} for n in range(9)]
    rows.append({"file_name": "gone.png", "label": "emu"})
    table = (root / "metadata" if beside else tmp_path / "table").with_suffix(f".{suffix}")
    _write_table(table, rows)
    data, said = _load("folder", root, labels=None if beside else str(table))
    assert _whole(data)[1] == [*map(_pet, range(9)), ""]
    assert data.classes == ["cat", "dog"]
    assert "labels of 9 of 10 files from" in said
    assert "1 rows of" in said
    assert "1 of 10 images have no label" in said
    assert data.provenance["skipped"] == 0
    assert data.names["test"][0].endswith(".png")


def test_tables_name_their_columns_and_numbers_sort_by_value(tmp_path):
    _flat(tmp_path / "set", 12)
    rows = [{"nr": f"{n}", "kind": n, "split": "x"} for n in range(12)]
    _write_table(tmp_path / "t.csv", rows)
    options = {"labels": str(tmp_path / "t.csv"), "label_field": "kind", "image_field": "nr"}
    data, _ = _load("folder", tmp_path / "set", **options)
    assert data.classes == [str(n) for n in range(12)]
    with pytest.raises(UserError, match=r"columns are nr, kind, split; name .* --image-field"):
        _load("folder", tmp_path / "set", labels=str(tmp_path / "t.csv"))


def test_metadata_in_each_split_folder(tmp_path):
    for part in ("train", "test"):
        _flat(tmp_path / part, 4)
        rows = [{"file_name": f"{n}.png", "label": _pet(n)} for n in range(4)]
        _write_table(tmp_path / part / "metadata.csv", rows)
    data, _ = _load("folder", tmp_path)
    assert [len(part.labels) for part in data.splits.values()] == [4, 4]
    assert data.splits["test"].labels.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff\xfe\x00", b'{"file_name": 1\n', b"a" * 300_000, b"[1]\n", b"[" * 100_000],
)
@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet", "xlsx"])
def test_tables_that_are_none_are_one_line(tmp_path, content, suffix):
    _flat(tmp_path / "set", 2)
    (tmp_path / f"t.{suffix}").write_bytes(content)
    with pytest.raises(UserError, match=rf"t\.{suffix}: ") as caught:
        _load("folder", tmp_path / "set", labels=str(tmp_path / f"t.{suffix}"))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def _tar(path: Path, members: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("image", "label", "write", "settings"),
    [
        ("png", "cls", lambda n: str(n % 3).encode(), {}),
        ("input.jpg", "json", lambda n: json.dumps({"label": n % 3}).encode(), {}),
        ("webp", "txt", lambda n: f"{n % 3}\n".encode(), {"label_field": "txt"}),
        (
            "png",
            "json",
            lambda n: json.dumps({"Deep": n % 3, "label": 9}).encode(),
            {"label_field": "JSON:Deep", "image_field": ".png"},
        ),
    ],
)
def test_other_peoples_webdatasets(tmp_path, image, label, write, settings):
    kind = {"png": "png", "input.jpg": "jpeg", "webp": "webp"}[image]
    for shard in range(2):
        members = {}
        for n in range(6 * shard, 6 * shard + 6):
            members[f"a/{n:03}.{image}"] = _picture(100 + n, kind)
            members[f"a/{n:03}.{label}"] = write(n)
            members[f"a/{n:03}.extra.pyd"] = pickle.dumps(n)
        _tar(tmp_path / f"set-{shard:03}.tar", members)
    data, said = _load("webdataset", tmp_path, test_fraction=0.25, **settings)
    images, classes = _whole(data)
    assert classes == [str(n % 3) for n in range(12)]
    assert np.abs(images.mean((1, 2, 3)) - (100 + np.arange(12))).max() < 3
    assert images.shape == (12, 3, 6, 5)
    assert f"images are the members {image}, labels {label}" in said
    assert "12 pickled members are never read" in said


def test_splits_of_tars_are_told_from_their_names(tmp_path):
    for part, count in (("train", 6), ("test", 3)):
        members = {f"{n}.png": _picture(100 + n) for n in range(count)}
        _tar(tmp_path / part / "0.tar", members)
    data, said = _load("webdataset", tmp_path)
    assert [len(part.labels) for part in data.splits.values()] == [6, 3]
    assert "labels none" in said


def test_a_field_that_no_sample_has_is_refused(tmp_path):
    _tar(tmp_path / "a.tar", {"0.png": _picture(1), "0.json": b'{"label": 1, "deep": {"b": 1}}'})
    for settings, told in (
        ({"label_field": "json:Label"}, "no json member has a label at Label"),
        ({"label_field": "json:deep.b"}, r"at deep\.b; name a key of the outermost object"),
        ({"label_field": "cls"}, "--label-field cls: no sample has such a member"),
        ({"image_field": "jpg"}, "--image-field jpg: no sample has such a member"),
    ):
        with pytest.raises(UserError, match=told):
            _load("webdataset", tmp_path, **settings)


def test_files_skipped_for_one_reason_are_counted_together(tmp_path):
    _flat(tmp_path)
    for n in range(3):
        noise = RNG.integers(0, 256, (40 + n, 40, 3), dtype=np.uint8)
        stream = io.BytesIO()
        Image.fromarray(noise).save(stream, "jpeg")
        (tmp_path / f"cut{n}.jpg").write_bytes(stream.getvalue()[: -700 - n])
    data, said = _load("folder", tmp_path)
    assert data.provenance["skipped_reasons"] == {"image file is truncated": 3}
    assert "cut0.jpg: image file is truncated (" in said


def test_tars_that_are_damaged_or_hold_no_images_are_named(tmp_path):
    _tar(tmp_path / "a.tar", {"0.txt": b"x"})
    with pytest.raises(UserError, match=r"members are txt; none is known as an image"):
        _load("webdataset", tmp_path)
    content = (tmp_path / "a.tar").read_bytes()
    (tmp_path / "a.tar").write_bytes(content[:300] + b"\xff" * 300)
    with pytest.raises(UserError, match=r"a\.tar: damaged tar"):
        _load("webdataset", tmp_path)
    with pytest.raises(UserError, match=r"no \.tar file there"):
        _load("webdataset", tmp_path / "b.tar.gz")


@pytest.mark.parametrize("struct_column", [True, False])
def test_parquet_of_pictures(tmp_path, struct_column):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    names = json.dumps({"info": {"features": {"label": {"names": ["emu", "cat", "dog"]}}}})
    for part, first, count in (("train", 0, 80), ("test", 80, 10)):
        contents = [_picture(n) for n in range(first, first + count)]
        column = [{"bytes": c, "path": f"{n}.png"} for n, c in enumerate(contents)]
        rows = {"image": column if struct_column else contents}
        rows["label"] = [n % 3 for n in range(first, first + count)]
        table = arrow.table(rows).replace_schema_metadata({"huggingface": names})
        (tmp_path / "data").mkdir(exist_ok=True)
        parquet.write_table(table, tmp_path / "data" / f"{part}-00000-of-00001.parquet")
    data, _ = _load("parquet", tmp_path)
    assert data.classes == ["emu", "cat", "dog"]
    train, test = data.splits["train"], data.splits["test"]
    assert train.images[:][:, 1, 2, 3].tolist() == list(range(80))
    assert test.images[:][:, 1, 2, 3].tolist() == list(range(80, 90))
    assert test.labels.tolist() == [n % 3 for n in range(80, 90)]
    (tmp_path / "x.parquet").write_bytes(b"PAR1" + bytes(50) + b"PAR1")
    with pytest.raises(UserError, match=r"x\.parquet: damaged"):
        _load("parquet", tmp_path / "x.parquet")
    parquet.write_table(arrow.table({"text": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(UserError, match="columns are text; none holds encoded pictures"):
        _load("parquet", tmp_path / "x.parquet")


CUBE = RNG.integers(0, 4096, (12, 5, 9, 8), dtype=np.uint16)  # images, channels, height, width


def test_tiffs_of_five_channels_and_12_bits(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    wanted = np.round(CUBE / 4095 * 255).astype(np.uint8)
    for n, image in enumerate(CUBE):
        folder = tmp_path / "files" / _pet(n // 6)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{n:02}.ome.tif"
        tifffile.imwrite(path, image, photometric="minisblack", metadata={"axes": "CYX"}, ome=True)
    tifffile.imwrite(
        tmp_path / "stack.ome.tif", CUBE, photometric="minisblack", metadata={"axes": "TCYX"}
    )
    for source in (tmp_path / "files", tmp_path / "stack.ome.tif"):
        data, said = _load("tiff", source)
        assert "12 pictures of uint16: uint16 values of" in said
        assert "stored as uint16, the values as they are; --dtype uint8 stores 256 levels" in said
        assert (data.values.dtype, data.values.scale) == ("uint16", (0, 4095))
        assert np.array_equal(_whole(data)[0], CUBE)
        assert np.array_equal(_whole(_load("tiff", source, dtype="uint8")[0])[0], wanted)
    assert "12 images in 1 files: pages count as images" in said
    assert _load("tiff", tmp_path / "files")[0].classes == ["cat", "dog"]


def test_tiffs_of_pages_colours_and_floats(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pages = (CUBE[:, 0] / 4095).astype(np.float32)
    tifffile.imwrite(tmp_path / "pages.tif", pages, photometric="minisblack")
    assert np.array_equal(
        _whole(_load("tiff", tmp_path / "pages.tif", dtype="uint8")[0])[0][:, 0],
        np.round(pages * 255),
    )
    colours = CUBE[:4, :3].transpose(0, 2, 3, 1).copy()
    (tmp_path / "rgb").mkdir()
    for n, image in enumerate(colours):
        tifffile.imwrite(tmp_path / "rgb" / f"{n}.tif", image, photometric="rgb")
    (tmp_path / "rgb" / "x.tif").write_bytes(b"II*\0" + bytes(40))
    data, said = _load("tiff", tmp_path / "rgb", dtype="uint8")
    wanted = np.round(colours / 4095 * 255).transpose(0, 3, 1, 2)
    assert np.array_equal(_whole(data)[0], wanted)
    assert "skipped x.tif: " in said


def _cifar_rows(count: int, head: int) -> np.ndarray:
    rows = RNG.integers(0, 256, (count, head + 3072), dtype=np.uint8)
    rows[:, :head] = (np.arange(count) % 10)[:, None]
    return rows


@pytest.mark.parametrize("head", [1, 2])
def test_cifar_as_bytes(tmp_path, head):
    names = [f"data_batch_{n}.bin" for n in range(1, 6)] if head == 1 else ["train.bin"]
    folder = tmp_path / "cifar-batches-bin"
    folder.mkdir()
    rows = {name: _cifar_rows(20, head) for name in names}
    for name, batch in rows.items():
        (folder / name).write_bytes(batch.tobytes())
    test = _cifar_rows(10, head)
    (folder / ("test_batch.bin" if head == 1 else "test.bin")).write_bytes(test.tobytes())
    data, _ = _load("cifar10" if head == 1 else "cifar100", tmp_path)
    together = np.concatenate(list(rows.values()))
    assert np.array_equal(data.splits["train"].images, together[:, head:].reshape(-1, 3, 32, 32))
    assert np.array_equal(data.splits["test"].labels, test[:, head - 1])


def _python_2_pickle(rows: np.ndarray) -> bytes:
    """A batch of CIFAR-10 as Python 2 and NumPy 1 wrote it, opcode by opcode."""

    def text(value: bytes) -> bytes:  # BINSTRING
        return b"T" + struct.pack("<i", len(value)) + value

    count = len(rows)
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + b"K\x00K\x01tR"
    dtype += b"(K\x03" + text(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    shape = b"(J" + struct.pack("<i", count) + b"M\x00\x0ct"
    array += b"(K\x01" + shape + dtype + b"I00\n" + text(rows[:, 1:].tobytes()) + b"tb"
    labels = b"]" + b"(" + b"".join(b"K" + bytes([label]) for label in rows[:, 0]) + b"e"
    return b"\x80\x02}(" + text(b"data") + array + text(b"labels") + labels + b"u."


def test_cifar_as_python_wrote_it_is_read_without_unpickling(tmp_path):
    batches = {f"data_batch_{n}": _cifar_rows(4, 1) for n in range(1, 6)}
    batches["test_batch"] = _cifar_rows(4, 1)
    for name, rows in batches.items():
        (tmp_path / name).write_bytes(_python_2_pickle(rows))
    whole = pickle.loads(_python_2_pickle(batches["test_batch"]), encoding="bytes")
    assert np.array_equal(whole[b"data"], batches["test_batch"][:, 1:])  # NumPy reads the same
    (tmp_path / "batches.meta").write_bytes(
        pickle.dumps({b"label_names": [b"a", b"b", b"c", b"d"] + [b"e"] * 6}, 3)
    )
    data, _ = _load("cifar10", tmp_path)
    train = np.concatenate([rows for name, rows in batches.items() if name != "test_batch"])
    assert np.array_equal(data.splits["train"].images, train[:, 1:].reshape(-1, 3, 32, 32))
    assert np.array_equal(data.splits["train"].labels, train[:, 0])
    assert data.classes[:4] == ["a", "b", "c", "d"]


class _Harmful:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_cifar_as_python_3_wrote_it(tmp_path, protocol):
    rows = _cifar_rows(20, 1)
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]:
        batch = {"data": rows[:, 1:], b"labels": [int(row[0]) for row in rows]}
        (tmp_path / name).write_bytes(pickle.dumps(batch, protocol))
    data, _ = _load("cifar10", tmp_path)
    assert np.array_equal(data.splits["test"].images, rows[:, 1:].reshape(-1, 3, 32, 32))
    assert np.array_equal(data.splits["test"].labels, rows[:, 0])


def test_a_pickle_that_runs_code_runs_nothing(tmp_path):
    import os

    mark = tmp_path / "ran"
    for name in [*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]:
        (tmp_path / name).write_bytes(_python_2_pickle(_cifar_rows(4, 1)))
    for harmful in (
        pickle.dumps(_Harmful(os.system, f"touch {mark}")),
        pickle.dumps({b"data": _Harmful(eval, f"open({str(mark)!r}, 'w')")}),
        pickle.dumps({b"data": _Harmful(np.load, str(mark))}, 2),
        f"cposix\nsystem\n(Vtouch {mark}\ntR.".encode(),
        f"(S'touch {mark}'\niposix\nsystem\n.".encode(),
        b"\x80\x02r\xff\xff\xff\x7f.",
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",
        b"\x80\x02]q\x00" + b"h\x00a" * 1000,
        b"\x80\x02cnumpy\nndarray\nq\x00(K\x00tR.",
        b"\x80\x02Pabc\n.",
    ):
        (tmp_path / "data_batch_3").write_bytes(harmful)
        with pytest.raises(UserError, match="data_batch_3: "):
            _load("cifar10", tmp_path)
        assert not mark.exists()


def test_svhn_stl10_and_usps(tmp_path):
    import scipy.io

    images = RNG.integers(0, 256, (20, 3, 32, 32), dtype=np.uint8)
    for part, rows in (("train", slice(0, 12)), ("test", slice(12, 20))):
        digits = (np.arange(20)[rows] % 10)[:, None]
        content = {"X": images[rows].transpose(2, 3, 1, 0), "y": np.where(digits, digits, 10)}
        scipy.io.savemat(tmp_path / f"{part}_32x32.mat", content, do_compression=True)
        stl = RNG.integers(0, 256, (4, 3, 96, 96), dtype=np.uint8)
        (tmp_path / f"{part}_X.bin").write_bytes(stl.transpose(0, 1, 3, 2).tobytes())
        (tmp_path / f"{part}_y.bin").write_bytes(bytes([1, 2, 10, 1]))
    data, _ = _load("svhn", tmp_path)
    assert np.array_equal(data.splits["test"].images, images[12:])
    assert data.splits["train"].labels.tolist() == [n % 10 for n in range(12)]
    data, _ = _load("stl10", tmp_path)
    assert np.array_equal(data.splits["test"].images, stl)
    assert data.splits["test"].labels.tolist() == [0, 1, 9, 0]
    values = np.linspace(-1, 1, 256).round(4)
    line = " ".join(f"{n}:{value}" for n, value in enumerate(values, 1) if value != -1)
    for name in ("usps.bz2", "usps.t.bz2"):
        (tmp_path / name).write_bytes(bz2.compress(f"10 {line}\n1 {line}\n".encode()))
    data, _ = _load("usps", tmp_path)
    assert data.splits["train"].labels.tolist() == [9, 0]
    wanted = np.round((values + 1) / 2 * 255).reshape(16, 16)
    assert np.array_equal(data.splits["test"].images[0, 0], wanted)
    for name, dataset in (
        ("train_32x32.mat", "svhn"),
        ("train_X.bin", "stl10"),
        ("usps.bz2", "usps"),
    ):
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-40])
        with pytest.raises(UserError, match=f"{name}: "):
            _load(dataset, tmp_path)


def test_any_number_of_channels_in_arrays(tmp_path):
    for stored in (CUBE, CUBE.transpose(0, 2, 3, 1)):
        np.save(tmp_path / "x.npy", stored)
        images = _whole(_load("npz", tmp_path / "x.npy", dtype="uint8")[0])[0]
        assert np.array_equal(images, np.round(CUBE / 4095 * 255))
    np.save(tmp_path / "x.npy", np.zeros((4, 7, 9, 7), np.uint8))
    with pytest.raises(UserError, match=r"which axis is the channels"):
        _load("npz", tmp_path / "x.npy")


def _celeba(root: Path, form: str) -> np.ndarray:
    """Twelve faces: as the authors publish them, or as Kaggle does; the value of each."""
    values = np.arange(12) * 20 + 10
    names = [f"{n + 1:06d}.jpg" for n in range(12)]
    parts = [0] * 6 + [1] * 2 + [2] * 4
    smiles = [1 if n % 3 else -1 for n in range(12)]
    root.mkdir(parents=True)
    if form == "kaggle":
        rows = [f"{name},{part}" for name, part in zip(names, parts, strict=True)]
        (root / "list_eval_partition.csv").write_text("\n".join(["image_id,partition", *rows]))
        rows = [f"{name},-1,{smile}" for name, smile in zip(names, smiles, strict=True)]
        (root / "list_attr_celeba.csv").write_text("\n".join(["image_id,Bald,Smiling", *rows]))
        (root / "img_align_celeba" / "img_align_celeba").mkdir(parents=True)
        for name, value in zip(names, values, strict=True):
            place = root / "img_align_celeba" / "img_align_celeba" / name
            place.write_bytes(_picture(int(value), "jpeg"))
        return values
    rows = [f"{name} {part}" for name, part in zip(names, parts, strict=True)]
    (root / "celeba").mkdir()
    (root / "celeba" / "list_eval_partition.txt").write_text("\n".join(rows) + "\n")
    rows = [f"{name} -1  {smile}" for name, smile in zip(names, smiles, strict=True)]
    text = "\n".join(["12", "Bald Smiling ", *rows])
    (root / "celeba" / "list_attr_celeba.txt").write_text(text)
    with zipfile.ZipFile(root / "celeba" / "img_align_celeba.zip", "w", zipfile.ZIP_DEFLATED) as z:
        for name, value in zip(names, values, strict=True):
            z.writestr(f"img_align_celeba/{name}", _picture(int(value), "jpeg"))
    return values


@pytest.mark.parametrize("form", ["zip", "kaggle"])
def test_celeba_and_an_attribute(tmp_path, form):
    values = _celeba(tmp_path / "set", form)
    data, said = _load("celeba", tmp_path / "set", label_field="Smiling")
    train, test = data.splits["train"], data.splits["test"]
    found = np.concatenate([train.images[:], test.images[:]])
    np.testing.assert_allclose(found.mean((1, 2, 3)), values, atol=1)
    assert "2 images of val join train" in said
    assert data.classes == ["not Smiling", "Smiling"]
    assert [*train.labels, *test.labels] == [1 if n % 3 else 0 for n in range(12)]
    assert data.names["test"][0] == "000009.jpg"
    without, said = _load("celeba", tmp_path / "set", image_size=4)
    assert "--label-field Smiling takes one of the 40" in said
    assert without.classes == []
    assert without.splits["train"].images.shape == (8, 3, 4, 4)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        ("attribute", "--label-field Hat: list_attr_celeba.txt has Bald, Smiling"),
        ("partition", "not a list of pictures and 0, 1 or 2"),
        ("values", "000001.jpg has 1 values"),
        ("zip", "damaged"),
        ("none", "no list_eval_partition.txt or .csv there"),
        ("pictures", "no img_align_celeba.zip, nor a folder"),
    ],
)
def test_a_damaged_celeba_is_one_line(tmp_path, damage, word):
    root = tmp_path / "set"
    _celeba(root, "zip")
    place = root / "celeba"
    if damage == "partition":
        (place / "list_eval_partition.txt").write_text("000001.jpg 7\n")
    elif damage == "values":
        (place / "list_attr_celeba.txt").write_text("1\nBald Smiling\n000001.jpg 1\n")
    elif damage == "zip":
        packed = place / "img_align_celeba.zip"
        packed.write_bytes(packed.read_bytes()[:-30])
    elif damage == "none":
        (place / "list_eval_partition.txt").unlink()
    elif damage == "pictures":
        (place / "img_align_celeba.zip").unlink()
    with pytest.raises(UserError, match=word):
        _load("celeba", root, label_field="Hat" if damage == "attribute" else "Smiling")


def test_pictures_of_celeba_that_are_not_there_are_counted(tmp_path):
    _celeba(tmp_path / "set", "kaggle")
    (tmp_path / "set" / "img_align_celeba" / "img_align_celeba" / "000002.jpg").unlink()
    data, said = _load("celeba", tmp_path / "set")
    assert len(data.splits["train"].labels) == 7
    assert "skipped 000002.jpg: is not there" in said
