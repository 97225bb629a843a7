"""Fixtures of the cluster tests, each made once: Slurm, two hosts, a checkout with data."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import network
from tests.cluster import slurm as slurm_parts
from tests.cluster.parts import REPOSITORY, need_programs, need_root
from tests.cluster.training import Checkout, Jobs, Result


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
            pair = network.plug(*names)
        except RuntimeError as error:
            pytest.skip(f"this kernel gives no network namespaces: {error}")
        yield pair
    finally:
        network.unplug(*names)


@pytest.fixture(scope="session")
def checkout(tmp_path_factory) -> Checkout:
    """The project's files in a folder of their own, and the digits prepared there."""
    path = tmp_path_factory.mktemp("checkout")
    for room in ("data_pipeline", "vae_dist", "evaluation", "launch", "slurm"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(REPOSITORY / room, path / room, ignore=ignore)
    made = Checkout(path)
    made.vae_dist("prepare", "--dataset", "digits", "--out", made.data)
    return made


@pytest.fixture(scope="session")
def one_process(checkout) -> Result:
    """The small training by one process without any launcher."""
    checkout.vae_dist("train", *checkout.flags("one-process"))
    return checkout.run_of("one-process")


@pytest.fixture(scope="session")
def jobs(slurm, checkout) -> Jobs:
    """Jobs of the checkout on the Slurm of this session."""
    return Jobs(slurm, checkout)
