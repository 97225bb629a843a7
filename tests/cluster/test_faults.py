"""A dozen and more fault rounds, each kind at least once; ``make test-faults`` runs as many as wanted."""

import os
import subprocess
import sys

import pytest

from tests.cluster.parts import REPOSITORY
from tests.faults.rounds import ALL

pytestmark = pytest.mark.cluster


@pytest.mark.timeout(3600)
def test_trainings_come_through_every_kind_of_fault():
    """Messages, exit codes, checkpoints, and weights bit for bit after a resume."""
    words = [sys.executable, "-m", "tests.faults.rounds", "--rounds", str(len(ALL)), "--seed", "3"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # rounds fork; a pool of threads would not survive
    done = subprocess.run(
        words, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=3500
    )
    assert done.returncode == 0, done.stdout + done.stderr
