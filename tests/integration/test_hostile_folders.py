"""Data folders from strangers: refused in one line that names the file and the field."""

import io
import json
import os
import tarfile
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from data_pipeline.errors import UserError
from data_pipeline.folder import open_data
from data_pipeline.folder.manifest_file import checksum_of
from data_pipeline.folder.tars import npy_bytes, read_block
from data_pipeline.folder.verify import find_bad_shards, verify
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from launch.cli import main
from tests.data_folders import written

SHARD = "m['splits']['train']['shards'][0]"
HOSTILE = [
    "m['version']='2'",
    "m['version']=True",
    "m['version']=-1",
    "m['version']=10**400",
    "m['block_size']=0",
    "m['block_size']=-1",
    "m['block_size']=10**12",
    "m['block_size']=2.5",
    "m['block_size']=True",
    "m['classes']=5",
    "m['classes']=[1]",
    "m['classes']=['a','a','b']",
    "m['classes']=['a']",
    "m['classes'][0]='\\ud800'",
    "m['name']=None",
    "m['layout']='tar'",
    "m['layout']=[]",
    "m['image_shape']=[1,5]",
    "m['image_shape']=[1,0,4]",
    "m['image_shape']=[1,10**6,10**6]",
    "m['image_shape']=[1,5,10**400]",
    "m['image_shape']='abc'",
    "m['mean']=[float('nan')]",
    "m['mean']=[]",
    "m['mean']=[7]",
    "m['std']=['x']",
    "m['std']=[1e-300]",
    "m['std']=[-0.1]",
    "m['fingerprint']=7",
    "m['fingerprint']='0'*64",
    "m['provenance']=[]",
    "m['provenance']['settings']=5",
    "m['provenance']['source']='x'",
    "m['provenance']['source']={'x':'\\ud800'}",
    "m['provenance']['source']={'x':float('inf')}",
    "m['provenance']['source']={'x':eval('['*60+']'*60)}",
    "m['splits']=[]",
    "m['splits']={}",
    "m['splits']['../x']=m['splits']['val']",
    "m['splits']['train']=None",
    "m['splits']['train']['count']='x'",
    "m['splits']['train']['count']=10**12",
    "m['splits']['train']['count']=-1",
    "m['splits']['train']['class_counts']=[1]",
    "m['splits']['train']['class_counts']=[10**12,0,0]",
    "m['splits']['train']['class_counts']=[-1,0,0]",
    "m['splits']['train']['class_counts']={}",
    "m['splits']['train']['shards']=7",
    "m['splits']['train']['shards'][0]=[]",
    "m['splits']['train']['shards'].append(m['splits']['train']['shards'][0])",
    "m['splits']['val']['shards']=m['splits']['train']['shards']",
    *(
        f"{SHARD}['name']={name!r}"
        for name in (
            "../x.tar",
            "/etc/passwd",
            "",
            ".",
            "a/b.tar",
            "x\0.tar",
            [],
            5,
            "x.tar?a",
            "~.tar",
        )
    ),
    f"{SHARD}['name']='x'*300+'.tar'",
    f"{SHARD}['sha256']='../../x'",
    f"{SHARD}['sha256']=None",
    f"{SHARD}['count']=10**12",
    f"{SHARD}['count']=0",
    f"{SHARD}['count']=-5",
    f"{SHARD}['bytes']=10**12",
    f"{SHARD}['bytes']=0",
    f"{SHARD}['bytes']=1.5",
    f"{SHARD}['offsets']=7",
    f"{SHARD}['offsets']=[]",
    f"{SHARD}['offsets'][1]=[]",
    f"{SHARD}['offsets'][0]=-512",
    f"{SHARD}['offsets'][1]=10**15",
    f"{SHARD}['offsets'].reverse()",
    f"{SHARD}['offsets'].append(10**6)",
    f"{SHARD}['crc32']='x'",
    f"{SHARD}['crc32']=[1]",
    f"{SHARD}['crc32'][0]=None",
    f"del {SHARD}['offsets']",
    "del m['splits']['val']",
    "del m['mean']",
    "m['surprise']=1",
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "d"
    written(path, samples_per_shard=40, block_size=16)
    return path, (path / "manifest.json").read_text()


def edit(folder, change, *, seal):
    path, text = folder
    m = json.loads(text)
    exec(change, {"m": m})
    if seal:
        m["checksum"] = checksum_of(m)
    (path / "manifest.json").write_text(json.dumps(m))
    return str(path)


def first_batch(path, mode):
    config = LoaderConfig(loader=mode)
    return next(make_loader(open_data(path), "train", config, World(), batch_size=8).batches())


@pytest.mark.parametrize("change", HOSTILE)
def test_a_manifest_of_wrong_types_or_values_is_refused(folder, change):
    """By its checksum or with the checksum made right, by every reader, and named by verify."""
    for seal in (True, False):
        path = edit(folder, change, seal=seal)
        for mode in ("memory", "stream"):
            with pytest.raises(UserError, match=r"manifest\.json|damaged shard") as caught:
                first_batch(path, mode)
            assert "\n" not in str(caught.value)
        faults = verify(path)
        assert faults
        assert "manifest" in faults[0] or "damaged shard" in faults[0]


@pytest.mark.parametrize("command", ["verify", "inspect", "train", "evaluate"])
def test_every_command_refuses_it_in_one_line(folder, capsys, command, tmp_path):
    path = edit(folder, "m['splits']['train']['shards'][0]['offsets'][1]=[]", seal=True)
    flags = {
        "verify": [path],
        "inspect": [path],
        "train": ["--data", path, "--runs-dir", str(tmp_path)],
        "evaluate": ["--data", path, "--out", str(tmp_path / "e")],
    }
    assert main([command, *flags[command]]) == (1 if command == "verify" else 2)
    said = capsys.readouterr()
    text = said.out if command == "verify" else said.err
    assert "manifest.json" in text
    assert "splits.train.shards[0].offsets[1]" in text


@pytest.mark.parametrize(
    "change",
    [
        "m['mean'][0]+=1e-6",
        "m['std'][0]=0.0",
        "m['splits']['test']['class_counts'][0]-=1",
        "m['classes'][0]='dog'",
        "m['provenance']['source']={'found':'elsewhere'}",
        "m['name']='other'",
    ],
)
def test_what_the_fingerprint_does_not_cover_cannot_be_changed(folder, change):
    path = edit(folder, change, seal=False)
    assert any("changed after it was written" in fault for fault in verify(path))
    with pytest.raises(UserError, match="changed after it was written"):
        open_data(path)


@pytest.mark.parametrize("change", ["m['mean'][0]+=1e-6", "m['std'][0]=0.0"])
def test_verify_computes_the_figures_again(folder, change):
    """Also where the checksum was made right, or an old version has none."""
    for more in ("", ";m['version']=2;m['checksum']=''"):
        assert any(
            "of the images differs" in f for f in verify(edit(folder, change + more, seal=not more))
        )


def test_a_huge_or_deep_manifest_is_refused_before_it_is_built(folder):
    path = folder[0]
    for text in ("[" * 100_000, '{"version":3,"a":[' + "[]," * 1_100_000 + "[]]}", "[1]", "\xff"):
        (path / "manifest.json").write_bytes(text.encode("latin-1"))
        with pytest.raises(UserError, match=r"manifest\.json"):
            open_data(str(path))


def tar_of(*members, **headers):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in headers.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def npy(descr, shape, size):
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(size)


def block(images):
    return tar_of(
        ("k.images.npy", images),
        ("k.labels.npy", npy_bytes(np.zeros(4, np.int64))),
        ("k.index.npy", npy_bytes(np.arange(4))),
    )


def png(width, height, mode="L"):
    stream = io.BytesIO()
    Image.new(mode, (width, height)).save(stream, "PNG")
    return stream.getvalue()


def sparse(size):
    """An old GNU sparse member of four bytes that claims to be `size`."""
    header = bytearray(tarfile.TarInfo("k.images.npy").tobuf(tarfile.GNU_FORMAT))
    header[156:157] = b"S"
    header[124:136] = b"%011o\0" % 4
    header[386:410] = b"%011o\0%011o\0" % (size - 4, 4)
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"data".ljust(512, b"\0") + bytes(1024)


def long_name():
    """A GNU header which says that the name of the next member follows."""
    member = tarfile.TarInfo("@")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2
    return member.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(512, b"\0")


GOOD = npy_bytes(np.zeros((4, 1, 5, 4), np.uint8))
TARS = {
    "npy of another shape": (block(npy("'|u1'", "(1000000, 1000000)", 80)), "expected"),
    "npy shorter than its shape": (block(npy("'|u1'", "(4, 1, 5, 4)", 10)), "bytes"),
    "npy of objects": (block(npy("'|O'", "(4, 1, 5, 4)", 80)), "objects"),
    "npy with a nested header": (block(npy("(" * 50 + ")" * 50, "(4,)", 80)), "header"),
    "npy of version 9": (block(b"\x93NUMPY\x09\x00" + GOOD[8:]), "version"),
    "member twice": (tar_of(("k.images.npy", GOOD), ("k.images.npy", GOOD)), "twice"),
    "lacking members": (tar_of(("k.images.npy", GOOD)), "lacks"),
    "no members": (tar_of(), "0 samples"),
    "link": (tar_of(("k.images.npy", b""), type=tarfile.SYMTYPE, linkname="/etc/passwd"), "plain"),
    "device": (tar_of(("k.images.npy", b""), type=tarfile.CHRTYPE), "plain"),
    "sparse": (sparse(10**10), "plain"),
    "pax size that lies": (
        tar_of(("k.images.npy", GOOD), pax_headers={"size": str(10**12)}),
        "plain",
    ),
    "pax size that is no number": (
        tar_of(("k.images.npy", GOOD), pax_headers={"size": "x"}),
        "damaged",
    ),
    "many members": (tar_of(*((f"{n}.txt", b"") for n in range(100))), "members"),
    "gzip": (b"\x1f\x8b\x08" + bytes(2000), "damaged"),
    "cut": (block(GOOD)[:700], "damaged"),
    "headers that announce headers": (long_name() * 3000, "recursion"),
}


@pytest.mark.parametrize("kind", TARS)
def test_a_block_that_is_not_what_the_manifest_promises(kind):
    content, said = TARS[kind]
    tracemalloc.start()
    with pytest.raises(UserError, match=said) as caught:
        read_block(content, "block", 4, (1, 5, 4), "x.tar")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert str(caught.value).startswith("x.tar: damaged shard (")


@pytest.mark.parametrize(
    ("picture", "label"),
    [
        (png(20000, 20000), b"0"),
        (png(4, 5, "RGB"), b"0"),
        (png(4, 5, "P"), b"0"),
        (png(4, 5)[:44], b"0"),
        (b"GIF89a", b"0"),
        (png(4, 5), b"x"),
        (png(4, 5), b"9" * 5000),
        (png(4, 5), b"9" * 30),
    ],
)
def test_a_png_is_compared_with_the_manifest_before_it_is_decoded(picture, label):
    content = tar_of(("000000000.png", picture), ("000000000.cls", label))
    tracemalloc.start()
    with pytest.raises(UserError, match=r"x\.tar: damaged shard"):
        read_block(content, "sample", 1, (1, 5, 4), "x.tar")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


@pytest.mark.parametrize("layout", ["block", "sample"])
@pytest.mark.parametrize("mode", ["memory", "stream"])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_shard_that_cannot_be_read_is_named(tmp_path, layout, mode, workers):
    if workers and (mode == "memory" or layout == "sample"):
        return  # the memory loader has none
    data = written(tmp_path / "d", layout=layout, samples_per_shard=40, block_size=16)
    shard = tmp_path / "d" / "train-000001.tar"
    content = shard.read_bytes()

    def read():
        config = LoaderConfig(loader=mode, workers=workers)
        loader = make_loader(data, "train", config, World(), batch_size=80)
        return sum(len(batch) for batch in loader.batches())

    for put in (
        lambda: None,
        shard.mkdir,
        lambda: os.mkfifo(shard),
        lambda: shard.symlink_to(shard),
        lambda: shard.write_bytes(content[:-1024]),
        lambda: shard.write_bytes(content + b"x"),
        lambda: shard.write_bytes(b"x" * len(content)),
    ):
        if shard.is_dir():
            shard.rmdir()
        shard.unlink(missing_ok=True)
        put()
        with pytest.raises(
            UserError, match=r"train-000001\.tar: (cannot be read|damaged)"
        ) as caught:
            read()
        assert "\n" not in str(caught.value)
        assert any("train-000001.tar" in fault for fault in verify(data.path))
        assert list(find_bad_shards(data, "train", World())) == [shard.name]
    shard.write_bytes(content)
    assert read() == 80


def test_a_shard_replaced_while_it_is_read_ends_the_run(tmp_path):
    data = written(tmp_path / "d", samples_per_shard=80, block_size=8)
    batches = make_loader(
        data,
        "train",
        LoaderConfig(loader="stream", prefetch=0, lanes=1, shuffle_window=1),
        World(),
        batch_size=8,
    ).batches()
    next(batches)
    shard = tmp_path / "d" / "train-000000.tar"
    other = bytearray(shard.read_bytes())
    for start in range(600, len(other), 1024):
        other[start] ^= 255
    shard.write_bytes(other)
    with pytest.raises(UserError, match="CRC-32"):
        list(batches)


@pytest.mark.parametrize("given", ["manifest.json", "train-000000.tar"])
def test_a_file_of_the_folder_given_as_the_folder(tmp_path, given):
    written(tmp_path / "d")
    with pytest.raises(UserError, match="is a file; give the data folder"):
        open_data(str(tmp_path / "d" / given))
