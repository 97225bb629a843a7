"""``make fuzz INPUTS=20000 SEED=1``: damaged files of every kind, each read or refused.

Each input is made from (SEED, its number) alone; ``INPUT=17`` makes that one again. What is
neither read rightly nor refused in one line is a finding; its file is kept.
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
from pathlib import Path
from random import Random

from tests.fuzz import mutate
from tests.fuzz.bases import build
from tests.fuzz.hostile import HOSTILE, REGRESSIONS
from tests.fuzz.kinds import KINDS, Kind
from tests.fuzz.sandbox import FINDING, READ, REFUSED, Outcome, Try, Watch, run_all
from tests.warm import WARM

MADE = [*HOSTILE, *REGRESSIONS]


class Fuzzer:
    """Makes inputs below `place` and reads them."""

    def __init__(self, place: Path, seed: int) -> None:
        self.place, self.seed = place, seed
        self.bases = place / "bases"
        self.whole: dict[str, object] = {}
        mutate.POOL = [*mutate.POOL[:40], *mutate.drawn_values(400, seed)]

    def prepare(self) -> None:
        """Import what the readers need, and write the bases in a child process."""
        import torch

        os.environ["MPLCONFIGDIR"] = str(self.place)
        for name in (
            *WARM,
            "tests.integration.report.conftest",
            "evaluation.figures",
            "matplotlib.font_manager",
        ):
            importlib.import_module(name)
        torch.set_num_threads(1)
        self.bases.mkdir(parents=True)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                build(self.bases)
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            raise RuntimeError("the base files could not be made")

    def input(self, number: int) -> tuple[str, Try]:
        """The kind of an input, and what makes and reads it."""
        name = list(KINDS)[number % len(KINDS)]
        kind, rng = KINDS[name], Random(f"{self.seed}-{number}")

        def attempt(watch: Watch) -> Outcome:
            folder = self._copy(kind, number)
            victim = folder / kind.file
            content = rng.choice([mutate.bits, *kind.mutations])(rng, victim.read_bytes())
            victim.write_bytes(content)
            repaired = kind.repair is not None and rng.random() < 0.6
            if repaired:
                kind.repair(folder)
            slow = number // len(KINDS) % kind.every == kind.every - 1
            outcome = self._read(watch, name, folder, exact=kind.exact and not repaired, slow=slow)
            if outcome.result == FINDING:
                self._keep(f"{self.seed}-{number}-{name}", content, outcome)
            return outcome

        return name, attempt

    def hostile(self, number: int) -> tuple[str, Try]:
        """A file made by hand, put in the place of one of its kind."""
        made = MADE[number]

        def attempt(watch: Watch) -> Outcome:
            kind = KINDS[made.kind]
            folder = self._copy(kind, number)
            (folder / kind.file).write_bytes(made.content())
            if kind.repair is not None:
                kind.repair(folder)
            return self._read(watch, made.kind, folder, exact=False, slow=False)

        return f"{made.kind}: {made.what}", attempt

    def _copy(self, kind: Kind, number: int) -> Path:
        folder = Path(tempfile.mkdtemp(prefix=f"{number}-", dir=self.place))
        shutil.copytree(self.bases / kind.base, folder, symlinks=True, dirs_exist_ok=True)
        return folder

    def _read(self, watch: Watch, name: str, folder: Path, *, exact: bool, slow: bool) -> Outcome:
        kind = KINDS[name]
        if exact and name not in self.whole:
            watch.read(lambda: self.whole.update({name: kind.read()}), self.bases / kind.base)

        def read() -> None:
            found = kind.read()
            assert not exact or found == self.whole[name], "read other content than was written"
            if slow and kind.slow is not None:
                kind.slow()

        outcome = watch.read(read, folder)
        os.chdir(self.place)
        shutil.rmtree(folder)
        return outcome

    def _keep(self, name: str, content: bytes, outcome: Outcome) -> None:
        path = self.place / "findings" / re.sub(r"[ ,]+", "_", name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        path.with_name(path.name + ".txt").write_text(outcome.text)


def main() -> int:
    """Run the inputs and print the tally; 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--input", type=int, help="only this one")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the tally here, as JSON")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="vae-dist-fuzz-") as folder:
        fuzzer = Fuzzer(Path(folder) / "work", options.seed)
        fuzzer.prepare()
        if options.input is None:
            tries = [fuzzer.hostile(number) for number in range(len(MADE))]
            tries += [fuzzer.input(number) for number in range(options.inputs)]
        else:
            tries = [fuzzer.input(options.input)]
        results = in_processes(tries, options.jobs, fuzzer.place)
        if (fuzzer.place / "findings").is_dir():
            shutil.copytree(fuzzer.place / "findings", "fuzz-findings", dirs_exist_ok=True)
    return report(results, options, time.monotonic() - began)


def in_processes(tries: list[tuple[str, Try]], jobs: int, place: Path) -> list[tuple[str, Outcome]]:
    """Run tries, shared out over several processes; names and outcomes, in order."""
    pids = []
    for job in range(jobs):
        pids.append(os.fork())
        if pids[-1] == 0:
            with (place / f"outcomes-{job}").open("w", buffering=1) as file:
                for outcome in run_all([attempt for _, attempt in tries[job::jobs]]):
                    text = outcome.text if outcome.result == FINDING else ""
                    file.write(json.dumps([outcome.result, text]) + "\n")
            os._exit(0)
    for pid in pids:
        os.waitpid(pid, 0)
    texts = [(place / f"outcomes-{job}").read_text().splitlines() for job in range(jobs)]
    rows = [Outcome(*json.loads(texts[n % jobs][n // jobs])) for n in range(len(tries))]
    return [(name, outcome) for (name, _), outcome in zip(tries, rows, strict=True)]


def report(results: list[tuple[str, Outcome]], options: argparse.Namespace, seconds: float) -> int:
    """Print findings by their last line and the tally by kind; write the tally."""
    tally: dict[str, collections.Counter[str]] = {}
    groups: dict[str, list[str]] = {}
    for number, (name, outcome) in enumerate(results, -len(MADE) if options.input is None else 0):
        kind = name if name in KINDS else "made by hand, and former findings"
        tally.setdefault(kind, collections.Counter()).update(["inputs", outcome.result])
        if outcome.result == FINDING:
            lines = outcome.text.strip().splitlines()
            place = next((x.strip() for x in reversed(lines) if x.startswith("  File")), "")
            groups.setdefault(f"{name}: {lines[-1][:160]} {place[-90:]}", []).append(str(number))
    for group, texts in sorted(groups.items(), key=lambda item: -len(item[1])):
        print(f"{len(texts):5} {group}   e.g. input {texts[0]}")
    print("\n| file | inputs | read | refused | findings |\n|---|---:|---:|---:|---:|")
    total = sum(tally.values(), collections.Counter())
    for kind, count in [*tally.items(), ("all", total)]:
        print(
            f"| {kind} | {count['inputs']} | {count[READ]} | {count[REFUSED]} | {count[FINDING]} |"
        )
    findings = total[FINDING]
    print(json.dumps({"seed": options.seed, "inputs": total["inputs"], "findings": findings, "seconds": round(seconds)}))  # fmt: skip
    if options.out is not None:
        options.out.write_text(json.dumps({"seed": options.seed, "tally": tally}, indent=1) + "\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
