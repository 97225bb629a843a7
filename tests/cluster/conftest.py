"""Fixtures of the cluster tests, each made once: a two-node Slurm, two hosts, a data folder."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import network
from tests.cluster import slurm as slurm_parts
from tests.cluster.parts import need_programs, need_root


@pytest.fixture(scope="session")
def slurm() -> Iterator[slurm_parts.SlurmCluster]:
    """A two-node Slurm on this machine, for all tests of the session."""
    need_root()
    need_programs(slurm_parts.PROGRAMS)
    folder = Path(tempfile.mkdtemp(prefix="vae-slurm-"))
    cluster = slurm_parts.SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def hosts() -> Iterator[tuple[network.Host, network.Host]]:
    """Two hosts with addresses of their own and a cable between them."""
    need_root()
    need_programs(network.PROGRAMS)
    names = tuple(f"vae{os.getpid() % 10_000}{letter}" for letter in "ab")
    network.unplug(*names)
    try:
        try:
            yield_hosts = network.plug(*names)
        except RuntimeError as error:
            pytest.skip(f"this kernel gives no network namespaces: {error}")
        yield yield_hosts
    finally:
        network.unplug(*names)
