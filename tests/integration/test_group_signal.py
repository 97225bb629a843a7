"""A signal to the whole process group, as schedulers and Ctrl-C send it, with reading workers."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tests.data_folders import digits, written
from tests.training_runs import COMMON, TRAIN, environment, flags


def wait_for_records(path, count, process, log):
    end = time.monotonic() + 90
    while True:
        found = path.read_text().count("\n") if path.exists() else 0
        if found >= count:
            return found
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform == "win32", reason="process groups of POSIX")
def test_workers_survive_a_signal_that_is_meant_for_the_trainer(tmp_path):
    written(tmp_path / "data", digits(), block_size=16)
    settings = {**COMMON, "data": tmp_path / "data", "runs_dir": tmp_path, "name": "group"}
    settings |= {"loader": "stream", "workers": 2, "batch_size": 4, "epochs": 200}
    log = tmp_path / "log"
    process = subprocess.Popen(
        [sys.executable, str(TRAIN), *flags(settings)],
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        env=environment(),
        start_new_session=True,
    )
    try:
        steps = wait_for_records(tmp_path / "group" / "metrics.jsonl", 5, process, log)
        for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGINT):
            for worker in psutil.Process(process.pid).children():
                worker.send_signal(number)
        wait_for_records(tmp_path / "group" / "metrics.jsonl", steps + 20, process, log)
        os.killpg(process.pid, signal.SIGTERM)
        assert process.wait(60) == 75, log.read_text()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    status = json.loads((tmp_path / "group" / "status.json").read_text())
    assert status["state"] == "stopped"
