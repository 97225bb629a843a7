"""Faults in the other commands: prepare, evaluate and sample write, and the disk fails."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from tests.faults.kinds import ERRORS, MACHINE, End, Kind, Round
from tests.faults.shim import Fault

CALLS = ("open", "write", "write", "rename", "mkdir")


def words_of(name: str, out: Path, data: Path, run: Path) -> list[object]:
    """The words of a command that writes into `out`."""
    if name == "prepare":
        return ["prepare", "--dataset", "digits", "--out", out, "--writers", 1]
    if name == "sample":
        return ["sample", "--run", run, "--data", data, "--out", out]
    own = ["--methods", "pca", "vae", "--dims", 2, "--repeats", 2, "--cache", out.parent / "kept"]
    return ["evaluate", "--runs", run, "--data", data, "--out", out, "--backend", "cpu", *own]


def make_references(place: Path, run: Path) -> None:
    """What each command writes when nothing disturbs it."""
    shutil.copytree(run, place / "trained" / "run", symlinks=True)
    for kind in KINDS:
        quiet = Round(-1, None, place / f"whole-{_name(kind)}", place / "data", 1, "memory", False)
        command = quiet.start(*_words(quiet, _name(kind), place))
        assert command.wait() == 0, command.said()


def disturbed(r: Round, name: str, parts: list[str]) -> End:
    fault = Fault(
        call=r.rng.choice(CALLS),
        part=r.rng.choice(parts),
        nth=r.rng.randint(1, 6),
        times=r.rng.choice([0, 1]),
        error=r.rng.choice(ERRORS),
    )
    r.ranks = 1
    return End(
        r.start(*_words(r, name, r.place.parent), fault=fault), MACHINE, "vae-dist: error: .*"
    )


def prepare(r: Round) -> End:
    """The disk fails while shards are written."""
    return disturbed(r, "prepare", ["/out"])


def evaluate(r: Round) -> End:
    """The disk fails while results, figures, the report or the cache are written."""
    return disturbed(r, "evaluate", ["/out", "/out/figures", "report.html", "results", "/kept"])


def sample(r: Round) -> End:
    """The disk fails while pictures are written."""
    return disturbed(r, "sample", ["/out"])


KINDS: list[Kind] = [prepare, evaluate, sample]


def check_again(r: Round, end: End, place: Path) -> None:
    """The command, once more, writes what it writes when nothing disturbs it."""
    name = end.command.words[0]
    command = r.start(*end.command.words)
    code = command.wait()
    assert code == 0, f"once more: exit {code}\n{command.said()}"
    ours, theirs = (_content(name, folder / "out") for folder in (r.place, place / f"whole-{name}"))
    assert ours == theirs, f"other content once more: {ours} {theirs}"


def _content(name: str, out: Path) -> object:
    if name == "evaluate":
        rows = json.loads((out / "results.json").read_text())["rows"]
        assert (out / "report.html").is_file()
        return [[row[key] for key in ("embedding", "metric", "k", "value")] for row in rows]
    files = sorted(file for file in out.rglob("*") if file.is_file())
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def _name(kind: Kind) -> str:
    return kind.__name__


def _words(r: Round, name: str, place: Path) -> list[object]:
    return words_of(name, r.place / "out", place / "data", place / "trained" / "run")
