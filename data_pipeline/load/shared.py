"""Images that the processes of one machine hold once between them.

The first process of a machine reads them into memory that has no name in any folder, and the
others map it through ``/proc/PID/fd``. So it takes no space in ``/dev/shm``, and is gone with
the last process, however that ends.
"""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError, reason_of
from data_pipeline.load.base import Gather
from data_pipeline.order import World

if TYPE_CHECKING:
    from data_pipeline.folder import DataFolder


def shared_rows(
    data: DataFolder, split: str, exclude: Collection[str], world: World, gather: Gather
) -> tuple[Arrays, str]:
    """All images of a split in the order in which they were written, once a machine.

    Parameters
    ----------
    data, split, exclude
        As in ``DataFolder.rows``.
    world : World
        This process, of how many; all of them must call together.
    gather : callable
        Collects a value from every process, in the order of their ranks.

    Returns
    -------
    arrays : Arrays
        Writing to them would be seen by no other process.
    how : str
        How they are held; for the log.

    Raises
    ------
    UserError
        On all processes, if one of those that read could not.
    """
    machines = gather(_machine())
    mine = machines[world.rank]
    members = [rank for rank, machine in enumerate(machines) if machine == mine]
    if mine is None:
        members = [world.rank]
    leader = members[0]
    arrays, store, error = None, None, None
    if leader == world.rank:
        try:
            arrays, store = _read(data, split, exclude, shared=len(members) > 1)
        except Exception as caught:  # raised when the others know that they need not wait
            error = caught
    offers = gather((store, None if error is None else str(error)))
    if error is not None:
        raise error
    for rank, (_, fault) in enumerate(offers):
        if fault is not None:
            raise UserError(f"rank {rank} could not read the images: {fault}")
    trouble = ""
    if arrays is None:
        try:
            arrays = _mapped(data, split, exclude, *offers[leader][0])
        except OSError as caught:
            trouble = reason_of(caught)
    troubles = [text for text in gather(trouble) if text]
    if store is not None:
        os.close(store[1])  # the mapping stays
    if arrays is None:
        arrays = data.rows(split, exclude)
    if troubles:
        return arrays, f"{len(troubles)} processes hold images of their own ({troubles[0]})"
    return arrays, f"held once for the {len(members)} processes of this machine"


def _machine() -> tuple[str, ...] | None:
    """Equal on processes that can see each other in ``/proc``; None where nothing is shared."""
    if not hasattr(os, "memfd_create"):
        return None
    try:
        with open("/proc/sys/kernel/random/boot_id") as file:
            boot = file.read().strip()
        return socket.gethostname(), boot, os.readlink("/proc/self/ns/pid"), str(os.geteuid())
    except OSError:
        return None


def _read(
    data: DataFolder, split: str, exclude: Collection[str], *, shared: bool
) -> tuple[Arrays, tuple[int, int] | None]:
    """The images, and where others find their memory: process and file handle."""
    if not shared:
        return data.rows(split, exclude), None
    dtype = data.manifest.values.numpy
    handle = os.memfd_create("vae-dist-images")
    try:

        def allocate(shape: tuple[int, ...]) -> np.ndarray:
            count = int(np.prod(shape))
            os.ftruncate(handle, count * dtype.itemsize + _tail(shape[0]))
            whole = mmap.mmap(handle, 0)
            return np.frombuffer(whole, dtype, count).reshape(shape)

        arrays = data.rows(split, exclude, allocate)
        size = arrays.images.nbytes
        with mmap.mmap(handle, 0) as whole:  # labels and positions stand behind the images
            whole[-_tail(len(arrays.labels)) :] = arrays.labels.tobytes() + arrays.index.tobytes()
    except BaseException:
        os.close(handle)
        raise
    assert os.fstat(handle).st_size == size + _tail(len(arrays.labels))
    return arrays, (os.getpid(), handle)


def _tail(count: int) -> int:
    return 2 * 8 * count


def _mapped(
    data: DataFolder, split: str, exclude: Collection[str], process: int, handle: int
) -> Arrays:
    shards = [s for s in data.manifest.split(split).shards if s.name not in exclude]
    shape = (sum(shard.count for shard in shards), *data.manifest.image_shape)
    size = shape[0] * data.manifest.image_bytes
    with open(f"/proc/{process}/fd/{handle}", "rb") as file:
        whole = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    assert len(whole) == size + _tail(shape[0])
    images = np.frombuffer(whole, data.manifest.values.numpy, int(np.prod(shape))).reshape(shape)
    tail = np.frombuffer(whole[size:], np.int64)
    return Arrays(images, tail[: shape[0]].copy(), tail[shape[0] :].copy())
