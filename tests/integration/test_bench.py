"""What the pipeline costs: bounded memory, and the bench command whole."""

import json
import multiprocessing
import re
from pathlib import Path

from data_pipeline.folder import open_data
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from launch.cli import main
from tests.data_folders import drawn, written
from tests.run_folders import write_run


def peak_memory(path):
    """Peak resident memory, in kB, of a process that streams an epoch of a folder."""
    results = multiprocessing.get_context("fork").SimpleQueue()

    def read():
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak of the parent
        config = LoaderConfig(loader="stream")
        loader = make_loader(open_data(path), "train", config, World(), batch_size=512)
        images = sum(len(batch) for batch in loader.batches())
        status = Path("/proc/self/status").read_text()
        results.put((images, int(re.search(r"VmHWM:\s+(\d+)", status).group(1))))

    process = multiprocessing.get_context("fork").Process(target=read)
    process.start()
    found = results.get()
    process.join()
    return found


def test_ten_times_the_data_takes_no_more_memory(tmp_path):
    shape = (1, 16, 16)
    paths = []
    for count in (30_000, 300_000):
        source = drawn(train=count, shape=shape)
        paths.append(written(tmp_path / str(count), source, block_size=64).path)
        del source
    (few, small), (many, large) = map(peak_memory, paths)
    assert (few, many) == (24_000, 240_000)
    print(f"peak memory {small / 1e3:.1f} MB, with ten times the images {large / 1e3:.1f} MB")
    assert large < 1.05 * small


def test_bench_data(tmp_path, capsys):
    data = written(tmp_path / "d", drawn(train=150, shape=(1, 8, 8)))
    out = tmp_path / "figures" / "bench.json"
    words = ["--images", "100", "--slow-images", "40", "--repeats", "1", "--out", str(out)]
    assert main(["bench", "data", data.path, *words, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record == json.loads(out.read_text())
    images = {row["name"]: row["images"] for row in record["rows"]}
    assert images["stream, blocks"] == images["webdataset alone, blocks"] == 100
    assert images["stream, PNGs"] == images["webdataset alone, PNGs"] == 40
    assert images["torchvision ImageFolder and DataLoader"] == 40
    assert images["stream, blocks over HTTP, fetching"] == 100
    assert all(row["images_per_second"] > 0 for row in record["rows"])
    assert main(["bench", "data", data.path, *words]) == 0
    assert "times as fast as webdataset alone" in capsys.readouterr().out
    assert main(["bench", "everything"]) == 2


def test_bench_encode_reads_what_it_wrote(tmp_path, capsys):
    """All rates are of the same images, and the scratch folder is empty again."""
    data = written(tmp_path / "data", drawn(shape=(1, 8, 8)))
    run = write_run(tmp_path / "run", data)
    (tmp_path / "scratch").mkdir()
    words = ["bench", "encode", str(data.path), "--run", str(run), "--images", "4000"]
    assert main([*words, "--rounds", "1", "--scratch", str(tmp_path / "scratch"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["shares"]["stream"] == 1
    for name in ("to_folder", "to_npz"):
        (rate,) = found["images_per_second"][name]
        assert found["shares"][name] == rate / found["images_per_second"]["stream"][0]
    assert list((tmp_path / "scratch").iterdir()) == []
