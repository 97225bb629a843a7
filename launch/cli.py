"""The ``vae-dist`` command: one word, then that command's own flags."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version

from launch.config import complain, is_first_process

COMMANDS = {
    "prepare": "write a data set as webdataset shards",
    "verify": "check a data folder and name every fault",
    "inspect": "show what a data folder holds",
    "train": "train a variational autoencoder (also: accelerate launch launch/train.py)",
    "evaluate": "compare PCA, UMAP and trained VAEs, and write a report",
    "sample": "write samples, reconstructions, interpolations and traversals of a run",
    "monitor": "watch a run, live or finished, all ranks",
    "doctor": "check this machine and say what will be used",
    "bench": "measure the data pipeline, telemetry or evaluation here",
    "demo": "the whole job on one data set: prepare, train, evaluate",
}

# A file launch/inspect.py would hide Python's own from ``python launch/train.py``.
MODULES = {"inspect": "inspect_folder"}

ROOMS = ("data_pipeline", "vae_dist", "evaluation", "launch")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``vae-dist ARGV``.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after the program's name; ``sys.argv[1:]`` if not given.

    Returns
    -------
    int
        Exit code: 0 done; 1 failed; 2 the input is wrong; 75 stopped after a checkpoint.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"vae-dist {_version()}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        complain(ValueError(f"no command {name!r}; have {', '.join(COMMANDS)}"))
        return 2
    return guard(importlib.import_module(f"launch.{MODULES.get(name, name)}").main, words[1:])


def guard(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command; what the user got wrong becomes one line and exit code 2.

    A ``ValueError`` that one of this project's rooms raised is the user's. One that came out
    of a library is a bug and keeps its traceback. Of several processes that read the same
    wrong flags only the first complains.
    """
    try:
        return command(argv)
    except ValueError as error:
        if not _raised_here(error):
            raise
        if is_first_process():
            complain(error)
        return 2
    except KeyboardInterrupt:
        return 130


def _raised_here(error: BaseException) -> bool:
    trace = error.__traceback__
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    name = trace.tb_frame.f_globals.get("__name__", "")
    return name == "__main__" or name.split(".")[0] in ROOMS


def _version() -> str:
    try:
        return version("vae-dist")
    except PackageNotFoundError:
        return "(not installed)"


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: vae-dist COMMAND [flags]",
            "",
            *lines,
            "",
            "vae-dist COMMAND --help lists the flags of a command.",
            "Exit codes: 0 done, 1 failed, 2 wrong input, 75 stopped after a checkpoint.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
