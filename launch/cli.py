"""The ``vae-dist`` command: one word, then that command's own flags."""

from __future__ import annotations

import errno
import importlib
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from data_pipeline.errors import UserError, reason_of
from data_pipeline.redact import scrub
from launch.config import complain

COMMANDS = {
    "prepare": "write a data set as webdataset shards",
    "verify": "check a data folder and name every fault",
    "inspect": "show what a data folder holds",
    "train": "train a variational autoencoder (also: accelerate launch launch/train.py)",
    "evaluate": "compare PCA, UMAP and trained VAEs, and write a report",
    "sample": "write samples, reconstructions, interpolations and traversals of a run",
    "encode": "images to latents by a run: npz, parquet (also: torchrun launch/encode.py)",
    "decode": "latents to images, the inverse of encode",
    "monitor": "watch a run, live or finished, all ranks",
    "doctor": "check this machine and say what will be used",
    "bench": "measure the data pipeline, telemetry or evaluation here",
    "slurm": "copy the Slurm scripts and Accelerate configurations, to edit",
    "demo": "the whole job on one data set: prepare, train, evaluate",
}

# A file launch/inspect.py would hide Python's own from ``python launch/train.py``.
MODULES = {
    "inspect": "inspect_folder",
    "monitor": "monitor.command",
    "doctor": "doctor.command",
    "bench": "bench.command",
}

MACHINE_FAULTS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE)


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
        complain(UserError(f"no command {name!r}; have {', '.join(COMMANDS)}"))
        return 2
    return guard(importlib.import_module(f"launch.{MODULES.get(name, name)}").main, words[1:])


def guard(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command; a `UserError` becomes one line and exit code 2.

    So does an ``OSError`` that only the machine can be blamed for (a full or read-only disk,
    no more file handles). Everything else is a bug and keeps its traceback. Of several processes
    that read the same wrong flags only the first complains.
    """
    sys.excepthook = _without_secrets
    try:
        return command(argv)
    except UserError as error:
        complain(error)
        return 2
    except OSError as error:
        if error.errno not in MACHINE_FAULTS:
            raise
        complain(UserError(f"the machine's disk or limits: {reason_of(error)}"))
        return 2
    except KeyboardInterrupt:
        return 130


def _without_secrets(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print a traceback with the passwords and signatures of addresses hidden."""
    print(scrub("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


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
