"""Output that nobody reads, and Ctrl-C while libraries are imported: no traceback."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.data_folders import drawn, written
from tests.training_runs import environment

CLI = [sys.executable, "-m", "launch.cli"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "d"
    written(folder, drawn())
    return folder


def run(words, **options):
    return subprocess.run([*CLI, *words], env=environment(), timeout=120, **options)


def test_a_reader_that_goes_away_is_no_error(data):
    read, write = os.pipe()
    os.close(read)  # like head, which has read enough
    for words in (["inspect", str(data)], ["verify", "--help"], ["--help"]):
        done = run(words, stdout=write, stderr=subprocess.PIPE, text=True)
        assert done.stderr == "", words
        assert done.returncode == 128 + signal.SIGPIPE, words
    os.close(write)


def test_a_reader_of_tables_that_goes_away_is_no_failure():
    """rich, which draws them, would end with 1: the code of a bug."""
    code = "from launch.cli import guard; from rich.console import Console; import sys;"
    code += "sys.exit(guard(lambda argv: Console().print('a table') or 0, []))"
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, b"")


def test_a_training_whose_reader_goes_away_ends_without_a_complaint(data, tmp_path):
    """As in ``vae-dist train | head``; it names no disk that is full."""
    read, write = os.pipe()
    os.close(read)
    words = ["train", "--data", str(data), "--model-type", "fc", "--epochs", "1"]
    words += ["--runs-dir", str(tmp_path), "--name", "r", "--tensorboard", "False"]
    done = run(words, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


def test_a_full_disk_behind_the_output_is_one_line(data):
    with open("/dev/full", "w") as full:
        done = run(["inspect", str(data), "--json"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left" in done.stderr


def test_json_into_a_closed_output_is_refused(data):
    command = f"{' '.join(CLI)} inspect {data} --json >&-"
    done = subprocess.run(command, shell=True, env=environment(), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("vae-dist: error: --json: standard output is closed")
    assert done.stderr.count("\n") == 1


def test_ctrl_c_while_a_command_is_imported_ends_it_silently(data, tmp_path):
    """A module that takes long stands for torch, whose import takes as long as the disk does."""
    (tmp_path / "torch.py").write_text(
        "print('importing', flush=True)\nimport time\ntime.sleep(60)"
    )
    path = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{environment()['PYTHONPATH']}"}
    child = subprocess.Popen(
        [*CLI, "doctor"],
        env=environment(**path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert child.stdout.readline() == "importing\n"
    started = time.monotonic()
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=20)
    assert time.monotonic() - started < 5
    assert error == ""
    assert child.returncode == -signal.SIGINT
