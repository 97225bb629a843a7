"""The memory loader: the processes of one machine hold the images once between them."""

import multiprocessing
import os
import signal
import tracemalloc

import numpy as np
import psutil

from data_pipeline.errors import UserError
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from data_pipeline.values import Values
from tests.data_folders import drawn, written

SHAPE = (1, 100, 100)


def process(data, rank, size, pipe):
    """One rank: makes its loader, tells what it holds, and reads when it is told to."""

    def gather(value):
        pipe.send(value)
        return pipe.recv()

    try:
        loader = make_loader(
            data,
            "train",
            LoaderConfig(loader="memory"),
            World(rank, size),
            batch_size=64,
            gather=gather,
        )
    except UserError as error:
        pipe.send(error)
        return
    index = [i for batch in loader.batches() for i in batch.index.tolist()]
    pipe.send((loader.reason, index))
    pipe.recv()
    pipe.send([int(batch.images.sum()) for batch in loader.batches()])


def start(data, size):
    # Not forked from here: what other tests left running in this process would not survive it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["data_pipeline.load.loader"])
    pipes, processes = [], []
    for rank in range(size):
        ours, theirs = context.Pipe()
        processes.append(context.Process(target=process, args=(data, rank, size, theirs)))
        pipes.append(ours)
    for one in processes:
        one.start()
    return pipes, processes


def exchange(pipes, rounds=3):
    for _ in range(rounds):
        values = [pipe.recv() for pipe in pipes]
        for pipe in pipes:
            pipe.send(values)


def held(process):
    """Bytes of the shared images in a process: its share of what is resident."""
    return sum(
        part.pss
        for part in psutil.Process(process.pid).memory_maps()
        if "vae-dist-images" in part.path
    )


def test_two_processes_hold_the_images_once_and_outlive_the_one_that_read(tmp_path):
    source = drawn(1000, 20, SHAPE)
    data = written(tmp_path / "d", source, samples_per_shard=300)
    pipes, processes = start(data, 2)
    exchange(pipes)
    said = [pipe.recv() for pipe in pipes]
    assert all("held once for the 2 processes of this machine" in reason for reason, _ in said)
    assert sorted(said[0][1] + said[1][1]) == data.arrays("train").index.tolist()
    pixels = data.manifest.splits["train"].count * np.prod(SHAPE)
    assert 0.9 * pixels < sum(map(held, processes)) < 1.1 * pixels
    for pipe in pipes:
        pipe.send("read again")
    first, second = (pipe.recv() for pipe in pipes)
    assert sum(first) + sum(second) == int(data.arrays("train").images.sum(dtype=np.int64))
    for one in processes:
        one.join()


def test_what_was_read_stays_when_the_reader_is_killed(tmp_path):
    data = written(tmp_path / "d", drawn(1000, 20, SHAPE))
    before = set(os.listdir("/dev/shm"))
    pipes, processes = start(data, 2)
    exchange(pipes)
    said = [pipe.recv() for pipe in pipes]
    os.kill(processes[0].pid, signal.SIGKILL)
    processes[0].join()
    pipes[1].send("read again")
    rows = data.arrays("train")
    mine = np.isin(rows.index, said[1][1])
    assert sum(pipes[1].recv()) == int(rows.images[mine].sum(dtype=np.int64))
    processes[1].join()
    assert set(os.listdir("/dev/shm")) <= before


def test_a_damaged_shard_ends_all_processes(tmp_path):
    data = written(tmp_path / "d", samples_per_shard=30)
    (tmp_path / "d" / "train-000001.tar").unlink()
    pipes, processes = start(data, 2)
    exchange(pipes, rounds=2)
    for pipe in pipes:
        error = pipe.recv()
        assert isinstance(error, UserError)
        assert "train-000001.tar: cannot be read" in str(error)
    for one in processes:
        one.join()


def test_images_are_held_once_in_one_process(tmp_path):
    """Read into one array, not gathered in parts and sorted into a copy."""
    data = written(tmp_path / "d", drawn(3000, 20, SHAPE), samples_per_shard=512)
    pixels = data.manifest.splits["train"].count * np.prod(SHAPE)
    tracemalloc.start()
    loader = make_loader(data, "train", LoaderConfig(loader="memory"), World(), batch_size=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert loader.num_images == 2400
    assert peak < 1.3 * pixels


def stored(data, rank, size, pipe):
    """One rank of `test_stored_values_are_shared_as_they_are`."""

    def gather(value):
        pipe.send(value)
        return pipe.recv()

    config = LoaderConfig(loader="memory")
    loader = make_loader(
        data, "train", config, World(rank, size), batch_size=16, shuffle=False, gather=gather
    )
    parts = [(batch.index.numpy(), batch.images.numpy()) for batch in loader.batches()]
    pipe.send((loader.reason, *map(np.concatenate, zip(*parts, strict=True))))


def test_stored_values_are_shared_as_they_are(tmp_path):
    source = drawn(60, shape=(3, 5, 5))
    for part in source.splits.values():
        object.__setattr__(part, "images", part.images.astype(np.uint16) * 257)
    source.values = Values("uint16", (0, 65535))
    data = written(tmp_path / "data", source, block_size=7)
    context = multiprocessing.get_context("forkserver")
    pairs = [context.Pipe() for _ in range(2)]
    processes = [
        context.Process(target=stored, args=(data, rank, 2, theirs))
        for rank, (_, theirs) in enumerate(pairs)
    ]
    for one in processes:
        one.start()
    pipes = [ours for ours, _ in pairs]
    exchange(pipes)
    for pipe in pipes:
        reason, index, images = pipe.recv()
        assert "held once for the 2 processes" in reason
        assert images.dtype == np.uint16
        assert np.array_equal(images, source.splits["train"].images[index])
    for one in processes:
        one.join()
