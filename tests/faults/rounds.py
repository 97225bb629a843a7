"""``make test-faults ROUNDS=100 SEED=1``: trainings under faults, checked and resumed.

After each fault: the exit code and the message; what was committed is there; a resume ends with
the weights and the records of the undisturbed run, bit for bit. ``ROUND=17`` runs that one alone.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import os
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from random import Random

from tests.data_folders import digits, written
from tests.faults import commands
from tests.faults.kinds import KINDS, MACHINE, STEPS, End, Round
from tests.faults.shim import build
from tests.faults.training import Hung, status
from tests.training_runs import metrics
from tests.warm import WARM

FIGURES = ("split", "step", "epoch", "loss", "recon", "kl", "lr", "ssim", "elbo", "grad_norm")
ALL = [*KINDS, *commands.KINDS]


def main() -> int:
    """Run the rounds and print the tally; 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--round", type=int, help="only this one")
    parser.add_argument("--jobs", type=int, default=2, help="rounds at a time")
    parser.add_argument("--out", type=Path, help="write the tally here, as JSON")
    options = parser.parse_args()
    library = str(build())
    if library not in os.environ.get("LD_PRELOAD", ""):
        os.environ |= {"LD_PRELOAD": library, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        os.execv(sys.executable, [sys.executable, "-m", "tests.faults.rounds", *sys.argv[1:]])
    warm_up()
    numbers = list(range(options.rounds)) if options.round is None else [options.round]
    with tempfile.TemporaryDirectory(prefix="vae-dist-faults-") as folder:
        place = Path(folder)
        samples = {"samples_per_shard": 128, "block_size": 32}
        written(place / "data", digits(), **samples)
        make_references(place, (1, 2) if options.round is None else ())
        results = run_rounds(place, numbers, options.seed, options.jobs)
    return report(results, options)


def warm_up() -> None:
    """Import once what every warm command needs."""
    import torch

    for name in WARM:
        importlib.import_module(name)
    torch.set_num_threads(1)


def reference(place: Path, ranks: int, loader: str) -> Path:
    """The undisturbed run that a round is compared with; made when first asked for."""
    folder = place / f"whole-{ranks}-{loader}"
    if not (folder / "run").is_dir():
        whole = Round(-1, Random(0), folder, place / "data", ranks, loader, cold=False)
        command = whole.train(more={"checkpoint_every": 5, "tensorboard": False, "keep_last": 2})
        assert command.wait() == 0, command.said()
    return folder / "run"


def make_references(place: Path, worlds: Sequence[int]) -> None:
    """Make the references of these world sizes before rounds run side by side.

    What evaluate and sample are compared with is made always: a round alone needs it too.
    """
    for ranks in worlds:
        for loader in ("memory", "stream"):
            reference(place, ranks, loader)
    commands.make_references(place, reference(place, 1, "memory"))


def run_rounds(place: Path, numbers: list[int], seed: int, jobs: int) -> list[dict[str, object]]:
    """Run rounds in several processes; their results by number."""
    record = place / "results.jsonl"
    workers = []
    for job in range(jobs):
        workers.append(os.fork())
        if workers[-1] == 0:
            for number in numbers[job::jobs]:
                result = run_round(place, number, seed)
                with record.open("a") as file:
                    file.write(json.dumps(result) + "\n")
            os._exit(0)
    for worker in workers:
        os.waitpid(worker, 0)
    results = [json.loads(line) for line in record.read_text().splitlines()]
    return sorted(results, key=lambda result: result["number"])


def run_round(place: Path, number: int, seed: int) -> dict[str, object]:
    """Disturb, check, resume, compare; what came of it."""
    rng = Random(f"{seed}-{number}")
    kind = ALL[number % len(ALL)]
    folder = place / f"round-{number}"
    r = Round(
        number, rng, folder, place / "data",
        ranks=rng.choice([1, 1, 2]), loader=rng.choice(["memory", "stream"]),
        cold=rng.random() < 0.1,
    )  # fmt: skip
    began, fault, code, struck = time.monotonic(), "", None, False
    try:
        end = kind(r)
        code = end.command.wait()
        struck = end.command.fired.exists()  # of a fault that the preloaded library makes
        check_end(r, end, code)
        if kind in KINDS:
            check_committed(r)
            check_resume(r, reference(place, r.ranks, r.loader))
        else:
            commands.check_again(r, end, place)
    except (AssertionError, Hung) as error:
        fault = str(error) or traceback.format_exc()
    except Exception:
        fault = traceback.format_exc()
    seconds = time.monotonic() - began
    told = f"round {number}: {kind.__name__}, {r.ranks} rank(s), {r.loader}{', cold' if r.cold else ''}: exit {code}"
    print(f"{told}, {seconds:.0f} s{' FAILED' if fault else ''}", flush=True)
    if fault:
        print(f"{fault}\nalone: make test-faults SEED={seed} ROUND={number}", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    return {
        "number": number, "kind": kind.__name__, "code": code, "ranks": r.ranks,
        "loader": r.loader, "cold": r.cold, "seconds": round(seconds, 1), "struck": struck, "fault": fault,
    }  # fmt: skip


def check_end(r: Round, end: End, code: int) -> None:
    """The exit code, and one line where it is the user's or the machine's fault."""
    command = end.command
    allowed = end.codes | ({1} if command.ranks > 1 and end.codes - {0} else set())
    assert code in allowed, f"exit {code}, expected one of {sorted(allowed)}\n{command.said()}"
    errors = command.errors()
    if end.codes == MACHINE:
        own = [e for e in errors if "LostRanks" not in e and "SignalException" not in e]
        assert not any("Traceback" in e for e in own), f"a traceback\n{command.said()}"
        lines = [line for e in errors for line in e.splitlines() if line.startswith("vae-dist: error: ")]  # fmt: skip
        assert len(lines) <= 1 + ("LostRanks" in "".join(errors)), f"more than one line\n{command.said()}"  # fmt: skip
    if code in (1, 2) and end.says:
        said = "\n".join(errors)
        assert re.search(end.says, said, re.DOTALL), f"does not say {end.says!r}\n{command.said()}"


def check_committed(r: Round) -> None:
    """The checkpoint that the run's status names, and `last`, are whole."""
    from vae_dist.run.checkpoint import fault_of

    named = status(r.run).get("checkpoint")
    last = r.run / "checkpoints" / "last"
    if named is None and not last.is_symlink():
        return
    if named is not None:
        kept = sorted(p.name for p in (r.run / "checkpoints").glob("step-*"))
        assert last.is_symlink(), f"status names {named}, no last; have {kept}"
        assert last.readlink().name >= str(named), (
            f"status names {named}, last is {last.readlink()}"
        )
    fault = fault_of(last.resolve())
    assert not fault, f"last, {last.readlink()}: {fault}"


def check_resume(r: Round, whole: Path) -> None:
    """A resume ends where the undisturbed run ended: weights and records bit for bit."""
    command = r.train(more={"tensorboard": False})
    code = command.wait()
    assert code == 0, f"the resume ended with {code}\n{command.said()}"
    state = status(r.run)
    assert (state["state"], state["step"]) == ("done", STEPS), state
    files = [run / "checkpoints" / "last" / "model.safetensors" for run in (r.run, whole)]
    assert files[0].read_bytes() == files[1].read_bytes(), f"other weights\n{command.said()}"
    ours, theirs = (
        [{k: m.get(k) for k in FIGURES} for m in metrics(run)] for run in (r.run, whole)
    )
    assert ours == theirs, (
        f"other records: {[m for m in ours if m not in theirs][:3]}, {len(ours)} and {len(theirs)}"
    )
    left = [p.name for p in (r.run / "checkpoints").iterdir() if p.name.startswith(".")]
    assert not left, f"left lying: {left}"


def report(results: list[dict[str, object]], options: argparse.Namespace) -> int:
    """Print the tally by kind, and write it."""
    kinds: dict[str, collections.Counter[str]] = {
        kind.__name__: collections.Counter() for kind in ALL
    }
    for result in results:
        count = kinds[str(result["kind"])]
        count.update(["rounds", f"{result['ranks']} ranks", "cold" if result["cold"] else "warm"])
        count["failed"] += bool(result["fault"])
    columns = ["rounds", "1 ranks", "2 ranks", "cold", "failed"]
    print(f"\n| fault | {' | '.join(columns).replace('1 ranks', '1 rank')} |")
    print("|---|" + "---:|" * len(columns))
    for name, count in kinds.items():
        if count["rounds"]:
            print(f"| {name.replace('_', ' ')} | {' | '.join(str(count[c]) for c in columns)} |")
    total = sum(kinds.values(), collections.Counter())
    print(f"| all | {' | '.join(str(total[c]) for c in columns)} |")
    failed = [result["number"] for result in results if result["fault"]]
    print(json.dumps({"seed": options.seed, "rounds": len(results), "failed": failed}))
    if options.out is not None:
        options.out.write_text(
            json.dumps({"seed": options.seed, "results": results}, indent=1) + "\n"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
