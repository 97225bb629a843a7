"""The ``vae-dist`` command: one word, then that command's own flags."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import select
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError, nearest, reason_of
from data_pipeline.redact import scrub
from launch.processes import leave, may_speak

COMMANDS = {
    "prepare": "write a data set as webdataset shards",
    "verify": "check a data folder and name every fault",
    "inspect": "show what a data folder holds",
    "train": "train a variational autoencoder (also: accelerate launch launch/train.py)",
    "sweep": "train every combination of the settings in a TOML file; one table of all",
    "ablate": "train and evaluate a study's rows over seeds; which of its statements hold",
    "evaluate": "compare PCA, UMAP and trained VAEs, and write a report",
    "sample": "write samples, reconstructions, interpolations and traversals of a run",
    "encode": "images to latents by a run: npz, parquet (also: torchrun launch/encode.py)",
    "decode": "latents to images, the inverse of encode",
    "export": "a run as safetensors, torch.export or ONNX, or for the Hugging Face Hub",
    "presets": "list the named runs, or show one",
    "monitor": "watch a run, live or finished, all ranks",
    "doctor": "check this machine and say what will be used",
    "bench": "measure training, the data pipeline, encoding, telemetry or evaluation here",
    "slurm": "copy the scripts for Slurm, Kubernetes, SkyPilot and Accelerate, to edit",
    "completion": "print a script that lets bash or zsh complete commands and flags",
    "demo": "the whole job on one data set: prepare, train, evaluate",
}

# A file launch/inspect.py would hide Python's own from ``python launch/train.py``.
MODULES = {
    "inspect": "inspect_folder",
    "presets": "list_presets",  # presets/ is a folder
    "monitor": "monitor.command",
    "doctor": "doctor.command",
    "bench": "bench.command",
    "ablate": "ablate.command",
    "sweep": "sweep.command",
}

PACKAGES = ("data_pipeline", "vae_dist", "evaluation", "launch")
OWN = ("<string>", *(str(Path(__file__).parents[1] / name) for name in PACKAGES))
"""Where this program's own warnings come from; a dataclass's ``__init__`` has no file."""
PYTHONS_FORM = warnings.formatwarning

SLOW = {
    "prepare": "torch",
    "verify": "torch",
    "inspect": "torch",
    "train": "torch and accelerate",
    "evaluate": "torch and scikit-learn",
    "ablate": "torch and scikit-learn",
    "sweep": "torch and accelerate",
    "sample": "torch",
    "encode": "torch and accelerate",
    "decode": "torch and accelerate",
    "export": "torch",
    "monitor": "torch",
    "bench": "torch",
    "completion": "every command, to list its flags",
    "doctor": "torch, to ask it what it sees",
}
"""Commands whose libraries take seconds to load, and which: a person is told at once."""

QUIET = {"--json", "-h", "--help", "--help-all", "--list-flags"}

READER_GONE = 128 + signal.SIGPIPE
"""Exit code where nobody reads our output any more; the usual one."""

FIRST_SPEAKS = 3.0
"""Seconds after which a process that is not the first of its machine reports an error itself."""

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
    return guard(_command, list(sys.argv[1:] if argv is None else argv))


def _command(words: Sequence[str]) -> int:
    """Find the command that the first word names, and run it."""
    if not words or words[0] in ("-h", "--help", "--help-all", "help"):
        print(_help())
        return 0 if words else 2
    if words[0] in ("-V", "--version"):
        print(f"vae-dist {_version()}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}; {nearest(name, COMMANDS)}")
    if name in SLOW and sys.stderr.isatty() and not QUIET & set(words):
        print(f"vae-dist {name}: loading {SLOW[name]} ...", file=sys.stderr, flush=True)
    with _ended_by_interrupt():
        module = importlib.import_module(f"launch.{MODULES.get(name, name)}")
    return int(module.main(words[1:]))


def guard(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """Run a command; a `UserError` becomes one line and exit code 2.

    So does an ``OSError`` that only the machine can be blamed for (a full or read-only disk,
    no more file handles). Everything else is a bug and keeps its traceback. Of several processes
    that read the same wrong flags only the first complains.
    """
    sys.excepthook = _without_secrets
    warnings.formatwarning = _in_one_line
    code = 1
    try:
        code = _guarded(command, argv)
        return code
    finally:
        leave(failed=code != 0)


def _guarded(command: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    try:
        _open_streams(argv)
        try:
            return command(argv)
        finally:
            sys.stdout.flush()  # here, where a reader that has gone can still be handled
    except UserError as error:
        complain(error)
        return 2
    except OSError as error:
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            _discard_output()
            return READER_GONE
        if error.errno not in MACHINE_FAULTS:
            raise
        complain(UserError(f"the machine's disk or limits: {reason_of(error)}"))
        _discard_output()
        return 2
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):  # rich's answer to a reader that is gone
            return READER_GONE
        raise
    except KeyboardInterrupt:
        return 130


def _in_one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning of this program's as its errors look; of others as Python shows them."""
    if category is UserWarning and filename.startswith(OWN):
        return f"vae-dist: warning: {message}\n"
    return PYTHONS_FORM(message, category, filename, lineno, line)


def _without_secrets(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Print a traceback with the passwords and signatures of addresses hidden."""
    print(scrub("".join(traceback.format_exception(kind, error, trace))), end="", file=sys.stderr)


def complain(error: BaseException) -> None:
    """Write a user's error as one line to stderr.

    What all processes of a launcher meet, the first says at once, and the launcher then ends the
    others. What another one alone met, it says itself a moment later.
    """
    line = " ".join(str(error).split())
    if not may_speak():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(FIRST_SPEAKS)
        line = f"rank {os.environ.get('RANK', '?')}: {line}"
    print(f"vae-dist: error: {line}", file=sys.stderr)


def _open_streams(argv: Sequence[str]) -> None:
    """Give a command streams to write to also where the shell closed them (``>&-``)."""
    if sys.stdout is None and "--json" in argv:
        raise UserError("--json: standard output is closed; Fix: direct it into a file or a pipe")
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  # as long as the process


def _reader_is_gone() -> bool:
    """Whether nobody reads our output any more, as behind ``| head``."""
    poll = select.poll()
    for stream in (1, 2):
        poll.register(stream, 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _discard_output() -> None:
    """Let Python's own flush at the end succeed: it would end in a second complaint."""
    with contextlib.suppress(OSError, ValueError):  # a stream without a descriptor
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextlib.contextmanager
def _ended_by_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once, without a traceback from the middle of an import."""
    try:
        before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:  # not the main thread, which alone gets signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
