"""The copy of a run in an object store: whole or not there, newest first, one writer."""

import importlib.util
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch

from data_pipeline.errors import UserError
from vae_dist.mirror import session as session_module
from vae_dist.mirror.config import MirrorConfig
from vae_dist.mirror.fetch import local_copy
from vae_dist.mirror.index import Index, read_index
from vae_dist.mirror.lock import StoreLock
from vae_dist.mirror.mirror import Mirror
from vae_dist.mirror.places import copy_place, run_place, split_address
from vae_dist.mirror.session import follow
from vae_dist.mirror.store import ONCE, Store
from vae_dist.run.checkpoint import CheckpointConfig, fault_of, link, save_checkpoint
from vae_dist.run.folder import RunFolder
from vae_dist.run.which_checkpoint import linked, own_checkpoint, prune

KEEP = CheckpointConfig(keep_last=1)


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return f"memory://{uuid.uuid4().hex}/run"


class Training:
    """What a training does to its folder, on a machine of its own."""

    def __init__(self, address: str, place: Path, keep: CheckpointConfig = KEEP, **config: float):
        self.said: list[str] = []
        self.keep = keep
        self.mirror = Mirror(address, place, MirrorConfig(**config), keep, self.said.append)
        self.folder = RunFolder(place, mirror=self.mirror)

    def begin(self, step: int = 0, resume: str = "auto", overwrite: bool = False) -> "Training":
        self.folder.take(resume=resume, overwrite=overwrite)
        self.folder.begin(step, 0, own=self.folder.owns(resume))
        return self

    def save(self, step: int, *, best: bool = False) -> None:
        path = self.folder.path / "metrics.jsonl"
        with path.open("a") as file:
            file.write(json.dumps({"split": "train", "step": step}) + "\n")
        weights = {"w": torch.full((3,), float(step))}
        target = save_checkpoint(self.folder.checkpoints, weights, {}, {"step": step})
        if best:
            link(self.folder.checkpoints, "best", target)
        prune(self.folder.checkpoints, self.keep)
        self.folder.committed()

    def end(self) -> str:
        while not self.folder.finish(0.2):
            pass
        return self.folder.release()


@pytest.fixture
def start(address: str, tmp_path: Path) -> Iterator[Callable[..., Training]]:
    """Start a training on a named machine; its locks are let go in the end."""
    started: list[Training] = []

    def make(machine: str = "one", step: int = 0, **how: object) -> Training:
        keep = how.pop("keep", KEEP)
        assert isinstance(keep, CheckpointConfig)
        config = {n: how.pop(n) for n in ("mirror_every", "mirror_wait") if n in how}
        training = Training(address, tmp_path / machine, keep, **config)  # type: ignore[arg-type]
        started.append(training)
        return training.begin(step, **how)  # type: ignore[arg-type]

    yield make
    for training in started:
        training.folder.release()


def names(address: str) -> set[str]:
    """The checkpoints that have an object in the store."""
    found = Store(address, ONCE).names()
    return {name.split("/")[1] for name in found if name.startswith("checkpoints/")}


def until(done: Callable[[], bool]) -> None:
    stop = time.monotonic() + 20
    while not done():
        assert time.monotonic() < stop, "waited 20 s"
        time.sleep(0.01)


def test_the_copy_has_what_the_folder_has_and_no_more(address, start):
    """Last, best and logs are there in the end; what the run removed is not."""
    training = start()
    for step in (2, 4, 6):
        training.save(step, best=step == 2)
    assert training.end() == ""
    assert names(address) == {"step-00000002", "step-00000006"}
    assert training.said[-1] == f"copied to {address}"
    copy = local_copy(address)
    assert copy == copy_place(address)
    assert linked(copy / "checkpoints", "last").name == "step-00000006"
    assert linked(copy / "checkpoints", "best").name == "step-00000002"
    assert (copy / "metrics.jsonl").read_bytes() == (
        training.folder.path / "metrics.jsonl"
    ).read_bytes()
    assert not (copy / "lock.json").exists()
    one = local_copy(f"{address}/checkpoints/step-00000002")
    assert fault_of(one) == ""


def test_training_never_waits_and_the_newest_goes_first(address, start, monkeypatch):
    """A second checkpoint that the run removed while the first was copied is never copied; the
    first, removed too, is: it was held."""
    gate, putting, put = threading.Event(), threading.Event(), Store.put
    copied: list[str] = []

    def slow(store: Store, path: Path, name: str) -> None:
        putting.set()
        assert gate.wait(20)
        copied.append(name)
        put(store, path, name)

    training = start()
    monkeypatch.setattr(Store, "put", slow)
    before = time.monotonic()
    training.save(2)
    assert putting.wait(20)
    for step in (4, 6):
        training.save(step)
    assert time.monotonic() - before < 5
    gate.set()
    assert training.end() == ""
    written = [name.split("/")[1] for name in copied if name.endswith("meta.json")]
    assert written == ["step-00000002", "step-00000006"]
    assert names(address) == {"step-00000006"}


@pytest.mark.parametrize("parts", range(5))
def test_a_copy_that_broke_off_is_invisible(address, start, parts, monkeypatch):
    """After some objects of the second checkpoint the machine is gone: the first one counts."""
    training = start()
    training.save(2)
    until(lambda: read_index(Store(address, ONCE)).last == "step-00000002")
    count, call = 0, Store._call

    def broken(store: Store, name: str, work: Callable) -> object:
        nonlocal count
        if name.startswith("checkpoints/step-00000004") or (count and name == "mirror.json"):
            count += 1
            if count > parts:
                raise OSError("the machine is gone")
        return call(store, name, work)

    monkeypatch.setattr(Store, "_call", broken)
    training.save(4)
    until(lambda: count > parts or "step-00000004" in training.mirror.copier.index.checkpoints)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(training.folder.path.parent / "cache"))
    whole = "step-00000004" if parts == 4 else "step-00000002"
    checkpoint, _ = own_checkpoint(local_copy(address) / "checkpoints")
    assert checkpoint is not None
    assert (checkpoint.name, fault_of(checkpoint)) == (whole, "")


def test_another_machine_goes_on_and_the_first_one_takes_what_is_newer(address, start):
    first = start("one")
    first.save(2)
    assert first.end() == ""
    second = start("two", step=2)
    assert linked(second.folder.checkpoints, "last").name == "step-00000002"
    second.save(4)
    assert second.end() == ""
    again = start("one", step=4)
    assert linked(again.folder.checkpoints, "last").name == "step-00000004"
    assert len((again.folder.path / "metrics.jsonl").read_text().splitlines()) == 2
    assert any("another machine went on" in line for line in again.said)


def test_what_a_machine_could_not_copy_it_copies_when_it_goes_on(address, start, monkeypatch):
    training = start(mirror_wait=0)
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", _gone)
        training.save(2)
        missing = training.end()
    assert "checkpoint step-00000002 not copied there" in missing
    assert str(training.folder.path) in missing
    assert sum("warning" in line for line in training.said) == 1
    again = start("one", step=2)
    assert names(address) == {"step-00000002"}
    assert again.end() == ""


def test_a_store_that_comes_back_gets_all(address, start, monkeypatch):
    training = start()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", _gone)
        training.save(2)
        until(lambda: bool(training.said))
        assert "tried again with growing pauses" in training.said[0]
    assert training.end() == ""
    assert names(address) == {"step-00000002"}
    assert any("answers again" in line for line in training.said)


def test_what_could_not_be_removed_is_removed_later(address, start, monkeypatch):
    training = start()
    training.save(2)
    until(lambda: names(address) == {"step-00000002"})
    asked: list[str] = []

    def refuse(store: Store, names: Iterable[str]) -> None:
        asked.extend(names)
        raise OSError("nobody answers")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "remove", refuse)
        training.save(4)
        until(lambda: bool(training.said))
    assert asked[0] == "checkpoints/step-00000002/meta.json"
    assert training.end() == ""
    assert names(address) == {"step-00000004"}


def test_a_copy_that_broke_off_and_is_no_longer_wanted_is_removed(address, start, monkeypatch):
    training = start()
    put = Store.put

    def break_off(store: Store, path: Path, name: str) -> None:
        if name.endswith("step-00000002/trainer.pt"):
            raise OSError("nobody answers")
        put(store, path, name)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put", break_off)
        training.save(2)
        until(lambda: bool(training.said))
        assert names(address) == {"step-00000002"}
        training.save(4)
    assert training.end() == ""
    assert names(address) == {"step-00000004"}


def _gone(store: Store, path: Path, name: str) -> None:
    raise OSError("nobody answers")


def test_a_second_training_is_refused(address, start):
    start("one")
    with pytest.raises(UserError, match=r"is being trained already \(.* process \d+"):
        start("two")


def test_a_lock_whose_owner_is_gone_is_taken(address, monkeypatch):
    """Of another machine it is watched first; a beat in between refuses."""
    store, told = Store(address, ONCE), []
    monkeypatch.setattr("vae_dist.mirror.lock.is_running", lambda owner: None)
    dead = StoreLock(store, beat=60)
    dead.acquire()
    quick = StoreLock(store, told.append, beat=0.05, stale=0.2)
    quick.acquire()
    assert "watching up to" in told[0]
    with pytest.raises(UserError, match="is being trained already"):
        StoreLock(store, beat=0.2, stale=0.5).acquire()
    dead._beat = 0.0
    quick.release()
    assert store.read("lock.json") is None


def test_a_training_that_was_taken_over_stops(address, start, monkeypatch):
    monkeypatch.setattr("vae_dist.mirror.lock.BEAT", 0.05)
    training = start("one")
    held = json.loads(Store(address, ONCE).read("lock.json"))
    Store(address, ONCE).write("lock.json", json.dumps(held | {"id": "other"}).encode())

    def lost() -> bool:
        try:
            training.folder.check()
        except UserError as error:
            return "taken this run over" in str(error)
        return False

    until(lost)
    with pytest.raises(UserError, match="taken this run over"):
        training.folder.set_status(state="running")


def test_a_run_that_is_there_is_not_overwritten_unasked(address, start):
    first = start("one")
    first.save(2)
    assert first.end() == ""
    with pytest.raises(UserError, match=f"{address} holds a run already: go on with it"):
        start("two", resume="")
    start("two", resume="", overwrite=True)
    assert names(address) == set()
    assert read_index(Store(address, ONCE)).checkpoints == {}


def test_going_back_moves_what_lies_beyond(address, start):
    keep = CheckpointConfig(keep_last=9)
    first = start("one", keep=keep)
    for step in (2, 4, 6):
        first.save(step, best=step == 6)
    assert first.end() == ""
    resume = str(first.folder.checkpoints / "step-00000002")
    again = start("one", step=2, resume=resume, keep=keep)
    index = read_index(Store(address, ONCE))
    assert (list(index.checkpoints), index.last) == (["step-00000002"], "step-00000002")
    assert names(address) == {"step-00000002"}
    found = Store(address, ONCE).names()
    place = "abandoned-after-step-00000002/checkpoints/step-00000006/meta.json"
    assert place in found
    assert again.end() == ""


def test_the_processes_of_another_machine_fetch_once(address, start, tmp_path, monkeypatch):
    first = start("one")
    first.save(2)
    assert first.end() == ""
    main, fetched = start("one", step=2), []
    bring = session_module.bring_checkpoints

    def counted(*words: object) -> None:
        fetched.append(words)
        bring(*words)

    monkeypatch.setattr(session_module, "bring_checkpoints", counted)
    for _ in range(3):
        follow(address, tmp_path / "other", "")
    follow(address, main.folder.path, "")  # beside the main process there is nothing to fetch
    assert len(fetched) == 1
    assert linked(tmp_path / "other" / "checkpoints", "last").name == "step-00000002"


def test_damage_in_the_store_is_seen_and_the_one_before_taken(address, start, capsys):
    training = start(keep=CheckpointConfig(keep_last=2))
    for step in (2, 4):
        training.save(step)
    assert training.end() == ""
    part = "checkpoints/step-00000004/model.safetensors"
    content = Store(address, ONCE).read(part)
    Store(address, ONCE).write(part, content[:-1] + b"x")
    checkpoint, _ = own_checkpoint(local_copy(address) / "checkpoints")
    assert checkpoint.name == "step-00000002"
    assert "step-00000004 (model.safetensors has another SHA-256)" in capsys.readouterr().err
    Store(address, ONCE).write("checkpoints/step-00000002/meta.json", b"{")
    with pytest.raises(UserError, match="no checkpoint there is whole"):
        local_copy(address)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "mirror.json: damaged|not JSON|mirror.json"),
        (b'{"checkpoints": {"../../x": "0"}}', "is no name of a checkpoint"),
        (b'{"last": "step-../x"}', "is no name of a checkpoint"),
        (b'{"schema": 9}', "schema 9 is not known"),
    ],
)
def test_an_index_of_a_stranger_is_refused(address, content, message):
    Store(address, ONCE).write("mirror.json", content)
    with pytest.raises(UserError, match=message):
        local_copy(address)


def test_no_object_is_written_outside_the_copy(address, tmp_path):
    import fsspec
    from fsspec.implementations.memory import MemoryFile

    memory = fsspec.filesystem("memory")
    path = f"/{address.removeprefix('memory://')}/../../evil.json"
    memory.store[path] = MemoryFile(memory, path, b"{}")  # as a server may list it
    with pytest.raises(UserError, match="which is no name of a file"):
        local_copy(address)
    assert not list(tmp_path.rglob("evil.json"))


def test_a_folder_that_was_copied_there_by_hand_is_read(address, start, tmp_path):
    """Without an index, as `aws s3 sync` copies it: links have become folders."""
    training = start()
    training.save(2, best=True)
    training.end()
    by_hand = address.replace("/run", "/by-hand")
    for path in training.folder.path.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            name = path.relative_to(training.folder.path).as_posix()
            Store(by_hand, ONCE).write(name, path.read_bytes())
    for link_name in ("last", "best"):
        for path in (training.folder.checkpoints / link_name).iterdir():
            name = f"checkpoints/{link_name}/{path.name}"
            Store(by_hand, ONCE).write(name, path.read_bytes())
    checkpoint, _ = own_checkpoint(local_copy(by_hand) / "checkpoints")
    assert checkpoint.name == "step-00000002"


def test_a_missing_run_and_a_missing_library_are_named(address):
    with pytest.raises(UserError, match=f"{address}: no such run"):
        local_copy(address)
    if importlib.util.find_spec("gcsfs") is None:
        with pytest.raises(UserError, match=r"pip install \"vae-dist\[gcs\]\""):
            local_copy("gs://bucket/run")


def test_places_hold_no_secrets_and_stay_below_the_cache(tmp_path):
    place = run_place("s3://key:SECRET@bucket/../../a b/run?sig=SECRET", tmp_path)
    assert place == tmp_path / "s3" / "___@bucket" / "a_b" / "run"
    assert split_address("s3://b/runs/a/checkpoints/step-00000004") == (
        "s3://b/runs/a",
        "checkpoints/step-00000004",
    )
    assert split_address("s3://b/runs/a/") == ("s3://b/runs/a", "")


def test_an_index_names_only_what_it_still_holds() -> None:
    """Neither last nor best may name a checkpoint that was taken out."""
    names = {f"step-{step:08d}": "0" * 64 for step in (5, 10, 15)}
    first, second, third = names
    index = Index(last=third, best=second, checkpoints=names, epochs=dict.fromkeys(names, 1.0))
    left = index.without([second, third])
    assert (left.last, left.best) == (first, None)
    assert list(left.checkpoints) == list(left.epochs) == [first]
    assert index.without([third]).best == second
