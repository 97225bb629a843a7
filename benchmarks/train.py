"""How fast training is, beside other loops of the same mathematics, and where its time goes."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Annotated, Any

from benchmarks.contenders import LATENTS, LOOPS
from benchmarks.cost_model import cpu_step_seconds, fixed_and_each
from benchmarks.machine import describe_machine, usable_cores
from data_pipeline.checks import Above, AtLeast, OneOf, check_fields
from data_pipeline.errors import UserError

Say = Callable[[str], None]
ROOT = Path(__file__).parents[1]
LIBRARIES = {"pythae": "pythae", "lightning": "lightning"}
"""Loops that need a library of their own."""


@dataclasses.dataclass(kw_only=True)
class TrainBenchConfig:
    """Measuring the speed of training."""

    data: Path = Path("data/fmnist")
    """Data folder."""
    models: list[str] = dataclasses.field(default_factory=lambda: ["fc_conv"])
    """Models."""
    batch_sizes: Annotated[list[int], AtLeast(1)] = dataclasses.field(
        default_factory=lambda: [64, 512, 4096]
    )
    """Images a step."""
    beside: Annotated[list[str], OneOf(*LOOPS)] = dataclasses.field(
        default_factory=lambda: ["bare", "bare_compiled", "pythae", "lightning"]
    )
    """Other loops, turn by turn with this program's: bare, bare_compiled, pythae, lightning."""
    article2018: str = ""
    """A checkout of the 2018 program, to time its train.py too (fc and fc_conv)."""
    rounds: Annotated[int, AtLeast(1)] = 7
    """Turns of each loop; medians are reported."""
    turn_seconds: Annotated[float, Above(0)] = 3.0
    """Length of a turn."""
    threads: Annotated[int, AtLeast(1)] = 2
    """Threads of each loop on the CPU."""
    processes: Annotated[list[int], AtLeast(1)] = dataclasses.field(
        default_factory=lambda: [1, 2, 4]
    )
    """Numbers of processes, of one thread each, for the scaling of the first model; none: do
    not measure it."""

    def __post_init__(self) -> None:
        check_fields(self)


class Contender:
    """A training loop in a process of its own, which works when it is its turn.

    Parameters
    ----------
    name : str
        Of `LOOPS`.
    words : str
        Data folder, model, batch size, and what else the loop takes.
    threads : int
    cache : Path
        Folder for what is compiled; the usual one may hold what an interrupted compilation left.
    """

    def __init__(self, name: str, *words: str, threads: int, cache: Path) -> None:
        self.name = name
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, closed by `close`
        environ = os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": _path()}
        environ["TORCHINDUCTOR_CACHE_DIR"] = str(cache)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.contenders", name, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env=environ,
        )
        self.found: list[float] = []

    def _answer(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            lines = self.errors.read().decode(errors="replace").strip().splitlines()
            told = [line for line in lines if re.match(r"[\w.]+(Error|Exception)\b", line)] or lines
            raise RuntimeError(f"{self.name} ended: {told[-1] if told else 'without a word'}")
        return line

    def wait_until_ready(self) -> None:
        """Wait until it is warm."""
        self._answer()

    def turn(self, seconds: float) -> None:
        """Let it train so long, and note its images a second."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{seconds}\n")
        self.process.stdin.flush()
        told = json.loads(self._answer())
        self.found.append(told["images"] / told["seconds"])

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.wait()
        self.errors.close()


def bench_train(config: TrainBenchConfig, say: Say) -> dict[str, Any]:
    """All measurements of a config.

    Returns
    -------
    dict
        ``machine``; ``speeds``: of each model and batch size the images a second of each loop
        (median, lowest, highest) and ``ratio``, ours over it, the median of the ratios of
        neighbouring turns; ``scaling``; ``step``: the parts of one step. ``missing`` says what
        could not be measured, and why.
    """
    from benchmarks.step_parts import take_apart

    if not (config.data / "manifest.json").is_file():
        raise UserError(
            f"--data {config.data}: no data folder; Fix: vae-dist prepare --out {config.data}"
        )
    missing: dict[str, str] = {}
    names = []
    for name in config.beside:
        if name in LIBRARIES and importlib.util.find_spec(LIBRARIES[name]) is None:
            missing[name] = f"not installed (pip install {LIBRARIES[name]})"
            say(f"{name}: {missing[name]}; going on without it")
        else:
            names.append(name)
    speeds, parts = [], []
    with tempfile.TemporaryDirectory() as cache:
        for model in config.models:
            for batch_size in config.batch_sizes:
                measured = _beside(config, names, model, batch_size, missing, say, Path(cache))
                speeds.append(measured)
                parts.append(take_apart(config.data, model, batch_size, config.threads))
    scaling = _scaling(config, config.models[0], say) if config.processes else []
    return {
        "schema": 1,
        "machine": describe_machine(config.threads),
        "latents": LATENTS,
        "speeds": speeds,
        "step": parts,
        "scaling": scaling,
        "missing": missing,
    }


def _beside(
    config: TrainBenchConfig,
    names: list[str],
    model: str,
    batch_size: int,
    missing: dict[str, str],
    say: Say,
    cache: Path,
) -> dict[str, Any]:
    words = (str(config.data.resolve()), model, str(batch_size))
    wanted: list[tuple[str, ...]] = [("ours",), ("ours_stream",), *((name,) for name in names)]
    if config.article2018 and model in ("fc", "fc_conv"):
        wanted.append(("article2018", str(Path(config.article2018).resolve())))
    started = [
        Contender(name, *words, *more, threads=config.threads, cache=cache)
        for name, *more in wanted
    ]
    contenders: list[Contender] = []
    try:
        for contender in started:
            try:
                contender.wait_until_ready()
                contenders.append(contender)
            except RuntimeError as error:
                missing[f"{contender.name} {model} {batch_size}"] = str(error)
                say(f"{error}; going on without it")
        for _ in range(config.rounds):
            for contender in contenders:
                contender.turn(config.turn_seconds)
    finally:
        for contender in started:
            contender.close()
    own = contenders[0].found if contenders and contenders[0].name == "ours" else None
    loops = {}
    for c in contenders:
        loops[c.name] = {
            "images_per_second": statistics.median(c.found),
            "lowest": min(c.found),
            "highest": max(c.found),
        }
        if own:
            loops[c.name]["ratio"] = statistics.median(
                mine / theirs for mine, theirs in zip(own, c.found, strict=True)
            )
    told = ", ".join(f"{n} {f['images_per_second']:,.0f}" for n, f in loops.items())
    say(f"{model}, batch {batch_size}, images/s: {told}")
    return {"model": model, "batch_size": batch_size, "loops": loops}


def _scaling(config: TrainBenchConfig, model: str, say: Say) -> list[dict[str, Any]]:
    """Images a second on some numbers of processes, by turns; each a whole run."""
    found: dict[int, list[dict[str, Any]]] = {count: [] for count in sorted(config.processes)}
    for _ in range(min(config.rounds, 3)):
        for count in found:
            found[count].append(_train_on(config, model, count))
    least = min(found)
    reduction = {n: statistics.median(one["reduction"] for one in found[n]) for n in found}
    measured = {
        size: {n: statistics.median(one["step"][str(size)] for one in found[n]) for n in found}
        for size in config.batch_sizes
    }
    alone = {size: seconds[least] * least for size, seconds in measured.items()}
    fixed, each = fixed_and_each(alone)
    rows = []
    for size, seconds in measured.items():
        expected = {
            n: cpu_step_seconds(
                fixed=fixed,
                compute=each * size,
                reduction=reduction[n],
                processes=n,
                cores=usable_cores(),
            )
            for n in found
        }
        rows.append(
            {
                "model": model,
                "batch_size": size,
                "images_per_second": {n: size / taken for n, taken in seconds.items()},
                "ratio": {n: seconds[least] / taken for n, taken in seconds.items()},
                "expected_ratio": {n: expected[least] / taken for n, taken in expected.items()},
                "reduction_seconds": reduction,
                "gradient_bytes": found[least][0]["gradient_bytes"],
            }
        )
        told = ", ".join(
            f"{n}: {size / taken:,.0f} ({seconds[least] / taken:.2f} times, expected "
            f"{expected[least] / expected[n]:.2f})"
            for n, taken in seconds.items()
        )
        say(f"{model}, batch {size}, images/s by processes: {told}")
    return rows


def _train_on(config: TrainBenchConfig, model: str, processes: int) -> dict[str, Any]:
    images = str(round(config.turn_seconds * 60_000))
    with tempfile.TemporaryDirectory() as runs:
        out = Path(runs) / "found.json"
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        words += ["-m", "benchmarks.scaling", str(config.data), model, runs, str(out), images]
        words += map(str, config.batch_sizes)
        environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": _path()}
        done = subprocess.run(
            [sys.executable, *words], env=environ, capture_output=True, text=True, timeout=900
        )
        if done.returncode:
            raise RuntimeError(f"{processes} processes: {done.stderr[-2000:]}")
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def _path() -> str:
    """This checkout first, then what is on the path already."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
