import hashlib
import multiprocessing
import os
import signal
import subprocess
import threading
import time
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from data_pipeline.folder import open_data
from data_pipeline.folder.verify import verify
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from data_pipeline.progress import Silent
from data_pipeline.remote.cache import Cache
from data_pipeline.remote.reading import RemoteConfig, join, local_path, read_small
from data_pipeline.remote.transfer import Patience, TransferError, fetch
from data_pipeline.sources import SourceConfig
from data_pipeline.sources.download import download
from launch.cli import main
from tests.data_folders import digits, drawn, written
from tests.integration.faulty_server import FaultyServer, faulty_server
from tests.training_runs import flags
from vae_dist.run.checkpoint import fault_of, read_meta
from vae_dist.run.which_checkpoint import own_checkpoint

QUICK = Patience(timeout=1.0, retries=2, delay=0.01)
RNG = np.random.default_rng(0)
FILES = {f"f{n}": RNG.bytes(300_000) for n in range(6)}
SUMS = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
SIZE = 300_000


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with faulty_server() as state:
        state.files = dict(FILES)
        yield state


def _get(cache: Cache, server: FaultyServer, name: str) -> Path:
    return cache.path(f"{server.url}/{name}", SUMS[name], SIZE, QUICK)


def _again(cache: Cache) -> Cache:
    """The same cache as another process sees it."""
    return Cache(cache.folder, cache.limit)


def test_a_file_is_fetched_once(server, tmp_path):
    cache = Cache(tmp_path, 10**9)
    for who in (cache, cache, _again(cache)):
        assert _get(who, server, "f0").read_bytes() == FILES["f0"]
    assert len(server.gets("f0")) == 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"x" + path.read_bytes()[1:]),
        lambda path: os.truncate(path, 100),
        lambda path: path.unlink(),
    ],
)
def test_what_was_damaged_in_the_cache_is_fetched_again(server, tmp_path, damage):
    cache = Cache(tmp_path, 10**9)
    damage(_get(cache, server, "f0"))
    assert _get(cache, server, "f0").read_bytes() == FILES["f0"]
    damage(_get(cache, server, "f0"))
    assert _get(_again(cache), server, "f0").read_bytes() == FILES["f0"]
    assert len(server.gets("f0")) == 3


def test_damage_with_the_old_times_put_back_is_seen_too(server, tmp_path):
    cache = Cache(tmp_path, 10**9)
    path = _get(cache, server, "f0")
    before = path.stat()
    path.write_bytes(FILES["f1"])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert _get(_again(cache), server, "f0").read_bytes() == FILES["f0"]


def test_another_file_on_the_server_is_refused_and_not_kept(server, tmp_path):
    cache = Cache(tmp_path, 10**9)
    server.files["f0"] = FILES["f1"]
    with pytest.raises(TransferError, match=r"f0: has another SHA-256 than the manifest says"):
        _get(cache, server, "f0")
    server.files["f0"] = FILES["f0"][:-1]
    with pytest.raises(TransferError, match="f0: the connection ended after 299999 of 300000"):
        _get(cache, server, "f0")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(SUMS["f0"])] in (
        [],
        [f"{SUMS['f0']}.{SIZE}.part"],
    )
    server.files["f0"] = FILES["f0"]
    assert _get(cache, server, "f0").read_bytes() == FILES["f0"]


@pytest.mark.parametrize("status", [408, 425, 429])
def test_a_server_that_asks_for_patience_is_asked_again(status, server, tmp_path):
    server.fail("f0", ("status", status))
    assert _get(Cache(tmp_path, 10**9), server, "f0").read_bytes() == FILES["f0"]


def test_a_file_that_is_too_long_leaves_nothing_behind(server, tmp_path):
    part = tmp_path / "part"
    with pytest.raises(TransferError, match=r"sent .* bytes for a file of 1000"):
        fetch(f"{server.url}/f0", part, QUICK, size=1000)
    assert not part.exists()


def test_faults_on_the_way_are_mended(server, tmp_path):
    server.fail("f0", ("status", 500), ("cut", 200_000), ("stall", 50_000), ("status", 503))
    assert _get(Cache(tmp_path, 10**9), server, "f0").read_bytes() == FILES["f0"]


def _room(folder: Path) -> int:
    with FileLock(folder / "locks" / "room"):  # nothing comes or goes while we add up
        return sum(
            p.stat().st_size for p in folder.iterdir() if p.is_file() and p.suffix in ("", ".part")
        )


@pytest.mark.filterwarnings("ignore:.*fetched again")
def test_the_least_recently_used_goes_first(server, tmp_path):
    cache = Cache(tmp_path, int(3.5 * SIZE))
    for name in ("f0", "f1", "f2"):
        _get(cache, server, name)
        time.sleep(0.02)
    _get(_again(cache), server, "f0")
    time.sleep(0.02)
    _get(cache, server, "f3")
    assert _room(tmp_path) <= cache.limit
    for name in ("f0", "f2", "f3"):
        _get(cache, server, name)
    assert {name: len(server.gets(name)) for name in ("f0", "f1", "f2", "f3")} == {
        "f0": 1,
        "f1": 1,
        "f2": 1,
        "f3": 1,
    }
    _get(cache, server, "f1")
    assert len(server.gets("f1")) == 2
    assert _room(tmp_path) <= cache.limit


def test_a_file_larger_than_the_cache_is_refused(server, tmp_path):
    with pytest.raises(ValueError, match=r"do not fit in --cache-size"):
        _get(Cache(tmp_path, SIZE - 1), server, "f0")


def _work(folder: Path, limit: int, url: str, names: list[str], failures: list) -> None:
    cache = Cache(folder, limit)
    for name in names:
        for _ in range(100):
            try:
                content = cache.path(f"{url}/{name}", SUMS[name], SIZE, QUICK).read_bytes()
            except FileNotFoundError:  # pushed out before it was read
                continue
            break
        if content != FILES[name]:
            os._exit(3)


def test_ranks_of_a_node_share_one_fetch(server, tmp_path):
    server.delay = 0.02
    _run_ranks(4, (tmp_path, 10**9, server.url, sorted(FILES), []))
    assert {name: len(server.gets(name)) for name in FILES} == dict.fromkeys(FILES, 1)


def test_ranks_that_want_more_than_fits_get_all_the_same(server, tmp_path):
    highest = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.01):
            highest = max(highest, _room(tmp_path))

    (tmp_path / "locks").mkdir()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _run_ranks(4, (tmp_path, int(2.5 * SIZE), server.url, sorted(FILES) * 3, []))
    finally:
        done.set()
        watcher.join()
    assert 0 < highest <= int(2.5 * SIZE)


def test_a_file_is_not_evicted_before_its_record_is_written(server, tmp_path, monkeypatch):
    """Another rank that needs the room waits until the one that fetched has noted its sum."""
    write_record, others = Cache._write_record, []

    def noted(cache: Cache, path: Path) -> bool:
        monkeypatch.setattr(Cache, "_write_record", write_record)
        evict = partial(_get, Cache(tmp_path, SIZE), server, "f1")
        others.append(threading.Thread(target=evict))
        others[0].start()
        others[0].join(0.3)
        assert path.exists()
        return write_record(cache, path)

    monkeypatch.setattr(Cache, "_write_record", noted)
    assert _get(Cache(tmp_path, SIZE), server, "f0").name == SUMS["f0"]
    others[0].join()


def _run_ranks(count: int, arguments: tuple) -> None:
    context = multiprocessing.get_context("fork")
    ranks = [context.Process(target=_work, args=arguments) for _ in range(count)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert [rank.exitcode for rank in ranks] == [0] * count


def test_a_killed_rank_blocks_nobody_and_its_bytes_are_used(tmp_path):
    content = RNG.bytes(20_000_000)
    digest = hashlib.sha256(content).hexdigest()
    with faulty_server() as server:
        server.files["big"] = content
        server.delay = 0.01
        pid = os.fork()
        if pid == 0:
            Cache(tmp_path, 10**9).path(f"{server.url}/big", digest, len(content), QUICK)
            os._exit(0)
        part = tmp_path / f"{digest}.{len(content)}.part"
        while not part.exists() or part.stat().st_size < 1_000_000:
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        server.delay = 0
        path = Cache(tmp_path, 10**9).path(f"{server.url}/big", digest, len(content), QUICK)
        assert path.read_bytes() == content
        first, second = server.gets("big")
        assert first is None
        assert int(second.removeprefix("bytes=").rstrip("-")) >= 1_000_000


def test_a_process_that_forked_after_reading_reads_on(server, tmp_path):
    cache = Cache(tmp_path, 10**9)
    _get(cache, server, "f0")
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if _get(cache, server, "f1").read_bytes() == FILES["f1"] else 3)
        finally:
            os._exit(4)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _serve(server: FaultyServer, folder: Path) -> str:
    server.files.update({f"set/{p.name}": p.read_bytes() for p in folder.iterdir()})
    return f"{server.url}/set"


def _config(tmp_path: Path, **settings) -> LoaderConfig:
    return LoaderConfig(
        cache_dir=tmp_path / "cache", remote_timeout=1.0, **{"remote_retries": 2, **settings}
    )


def test_a_data_folder_is_read_over_http_with_faults(server, tmp_path):
    here = written(tmp_path / "set", drawn(300), samples_per_shard=64, block_size=8)
    url = _serve(server, tmp_path / "set")
    server.fail("set/manifest.json", ("status", 500))
    server.fail("set/train-000001.tar", ("cut", 2000), ("status", 502))
    there = open_data(url, config=_config(tmp_path))
    for split in ("train", "val", "test"):
        for one, other in zip(here.arrays(split), there.arrays(split), strict=True):
            assert np.array_equal(one, other)
    assert there.manifest == here.manifest
    assert verify(url, _config(tmp_path)) == []


def test_a_shard_that_is_gone_or_changed_is_named(server, tmp_path):
    written(tmp_path / "set", drawn(300), samples_per_shard=64, block_size=8)
    url = _serve(server, tmp_path / "set")
    gone = server.files.pop("set/train-000001.tar")
    data = open_data(url, config=_config(tmp_path))
    with pytest.raises(ValueError, match=r"set/train-000001\.tar: not found"):
        data.arrays("train")
    server.files["set/train-000001.tar"] = gone[:-9] + b"x" + gone[-8:]
    with pytest.raises(ValueError, match=r"set/train-000001\.tar: has another SHA-256"):
        data.arrays("train")
    faults = verify(url, _config(tmp_path))
    assert [fault for fault in faults if "train-000001.tar" in fault]


def test_no_data_folder_there(server, tmp_path):
    with pytest.raises(ValueError, match=r"no data folder \(no manifest.json there\)"):
        open_data(f"{server.url}/nothing", config=_config(tmp_path))
    with pytest.raises(ValueError, match="tried 1 times"):
        open_data("http://127.0.0.1:9/x", config=_config(tmp_path, remote_retries=0))
    with pytest.raises(ValueError, match="nonsense"):
        open_data("nonsense://x/y", config=_config(tmp_path))


def test_anything_that_fsspec_opens(tmp_path):
    import fsspec

    written(tmp_path / "set", drawn(50))
    fsspec.filesystem("memory").put(str(tmp_path / "set"), "/bucket/set", recursive=True)
    data = open_data("memory://bucket/set", config=_config(tmp_path))
    assert len(data.arrays("test").labels) == 20
    assert read_small("memory://bucket/set/manifest.json", RemoteConfig()).startswith(b"{")


def test_paths_pass_through(tmp_path):
    (tmp_path / "f").write_text("content")
    config = RemoteConfig()
    for url in (str(tmp_path / "f"), f"file://{tmp_path}/f"):
        assert local_path(url, sha256="", size=0, config=config) == tmp_path / "f"
        assert read_small(url, RemoteConfig()) == b"content"


def test_a_signed_address_keeps_its_query():
    assert join("https://host/set/?key=a/b", "x.tar") == "https://host/set/x.tar?key=a/b"
    assert join("data/set", "x.tar") == "data/set/x.tar"


@pytest.mark.parametrize(
    "flag", ["cache_size", "remote_timeout", "remote_retries", "remote_connections"]
)
def test_wrong_settings_name_the_flag(flag):
    with pytest.raises(ValueError, match="--" + flag.replace("_", "-")):
        LoaderConfig(**{flag: -1})


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_over_http_gives_the_batches_of_the_folder_here(server, tmp_path, workers):
    here = written(tmp_path / "set", drawn(300), samples_per_shard=64, block_size=8)
    there_config = _config(tmp_path, loader="stream", lanes=4, workers=workers)
    here_config = LoaderConfig(loader="stream", lanes=4)
    url = _serve(server, tmp_path / "set")
    server.fail("set/train-000002.tar", ("status", 500), ("cut", 3000))
    there = open_data(url, config=there_config)
    here = open_data(here.path, config=here_config)
    sides = [
        make_loader(data, "train", data.config, World(1, 2), batch_size=50, seed=3)
        for data in (here, there)
    ]
    for epoch in (0, 1):
        for one, other in zip(*(side.batches(epoch) for side in sides), strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.index, other.index)
    shards = [shard.name for shard in here.manifest.split("train").shards]
    assert all(len(server.gets(f"set/{name}")) in (1, 3) for name in shards)


def test_shards_are_fetched_several_at_once(server, tmp_path):
    written(tmp_path / "set", drawn(300), samples_per_shard=32, block_size=8)
    url = _serve(server, tmp_path / "set")
    data = open_data(url, config=_config(tmp_path, remote_connections=3))
    server.before_answer = threading.Barrier(3)
    wanted = data.manifest.split("train").shards[:3]
    data.read_blocks([(shard, 0) for shard in wanted])
    assert server.before_answer.broken is False
    assert server.met == 3


def test_a_cache_too_small_for_what_is_in_use_warns_once(server, tmp_path):
    cache = Cache(tmp_path, int(1.5 * SIZE))
    _get(cache, server, "f0")
    _get(cache, server, "f1")
    with pytest.warns(UserWarning, match=r"f0: fetched again, for --cache-size .* raise it"):
        _get(cache, server, "f0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _get(cache, server, "f1")


def test_a_proxy_of_the_environment_is_used(server, tmp_path, monkeypatch):
    server.files["http://images.invalid/f0"] = FILES["f0"]
    monkeypatch.setenv("http_proxy", server.url)
    path = Cache(tmp_path, 10**9).path("http://images.invalid/f0", SUMS["f0"], SIZE, QUICK)
    assert path.read_bytes() == FILES["f0"]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=500k", "tmpfs", str(folder)]
    try:
        subprocess.run(words, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs root, to mount a small disk")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_is_said(server, small_disk):
    cache = Cache(small_disk, 10**9)
    _get(cache, server, "f0")
    _get(cache, server, "f1")  # there is room for one only: the older one goes
    assert _room(small_disk) == SIZE
    (small_disk / "fill").write_bytes(b"x" * 150_000)
    os.unlink(small_disk / SUMS["f1"])
    (small_disk / "fill2").write_bytes(b"x" * 150_000)
    with pytest.raises(ValueError, match=r"disk full; choose another --cache-dir"):
        _get(cache, server, "f2")
    assert (small_disk / "fill").stat().st_size == 150_000  # what is not ours stays


def test_a_download_to_a_full_disk_is_said(server, small_disk):
    server.files["big"] = RNG.bytes(1_000_000)
    config = SourceConfig(download_timeout=1.0, download_retries=3)
    with pytest.raises(ValueError, match=r"small: disk full; choose another --download-dir"):
        download("big", [server.url], small_disk / "big", lambda _: None, config, Silent())
    assert not list(small_disk.glob("big*part"))


def test_a_manifest_cannot_write_outside_the_cache(server, tmp_path):
    with pytest.raises(ValueError, match="is not a SHA-256 sum"):
        Cache(tmp_path, 10**9).path(f"{server.url}/f0", "../" + SUMS["f0"][3:], SIZE, QUICK)


def test_a_server_that_dies_in_mid_epoch_ends_the_training_in_one_line(tmp_path, capfd):
    """Exit code 2; the checkpoint is whole, and the run goes on from it when the server is back."""
    data = written(tmp_path / "data", digits(), samples_per_shard=128, block_size=32)
    settings = {"model_type": "fc", "latent_size": 2, "epochs": 1, "batch_size": 50, "name": "run"}
    settings |= {"loader": "stream", "lanes": 1, "checkpoint_every": 1, "tensorboard": False}
    settings |= {"telemetry_interval": 0, "runs_dir": tmp_path, "cache_dir": tmp_path / "cache"}
    settings |= {"remote_retries": 0, "resume": "auto", "no_cuda": True}
    with faulty_server() as state:
        state.files = {path.name: path.read_bytes() for path in Path(data.path).iterdir()}
        state.fail("train-000005.tar", *[("status", 503)] * 99)
        words = ["train", *flags({**settings, "data": state.url})]
        assert main(words) == 2
        said = capfd.readouterr().err
        assert said.count("vae-dist: error: ") == 1
        assert f"{state.url}/train-000005.tar" in said
        assert "Traceback" not in said
        checkpoint, _ = own_checkpoint(tmp_path / "run" / "checkpoints")
        assert checkpoint is not None
        assert fault_of(checkpoint) == ""
        assert 0 < read_meta(checkpoint).epoch < 1
        state.faults.clear()
        assert main(words) == 0
