"""``vae-dist doctor``: check this machine; say what will be used and what is wrong."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.text import Text

from launch.config import parse
from launch.doctor.checks import CHECKS
from launch.doctor.findings import Finding

STYLES = {"ok": "green", "note": "dim", "warning": "yellow", "error": "bold red"}


@dataclasses.dataclass(kw_only=True)
class DoctorConfig:
    """What to check, and how to say it."""

    json: bool = False
    """Print one JSON object and nothing else."""
    quick: bool = False
    """Skip the checks that start processes: two ranks that meet, cuML."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist doctor ARGV``; returns 1 if something is wrong that stops a run, else 0."""
    (config,) = parse("doctor", [DoctorConfig], argv, "Check this machine.")
    left_out = {"processes", "evaluation"} if config.quick else set()
    console = Console(highlight=False)
    groups: dict[str, list[Finding]] = {}
    for name, (check, seconds) in CHECKS.items():
        if name not in left_out:
            groups[name] = run_check(name, check, seconds)
            if not config.json:
                show_group(console, name, groups[name])
    findings = [finding for group in groups.values() for finding in group]
    use, wrong = conclude(findings), faults(findings)
    broken = any(finding.status == "error" for finding in findings)
    if config.json:
        found = [{"group": g} | dataclasses.asdict(f) for g, fs in groups.items() for f in fs]
        json.dump({"schema": 1, "findings": found, "use": use, "wrong": wrong}, sys.stdout)
        print()
    else:
        show_end(console, use, wrong)
    sys.stdout.flush()
    return 1 if broken else 0


def run_check(name: str, check: Callable[[], Iterator[Finding]], seconds: float) -> list[Finding]:
    """Run a group of checks; a fault or a hang in it is a finding too."""
    findings: list[Finding] = []

    def work() -> None:
        try:
            for finding in check():
                findings.append(finding)
        except Exception as error:
            text = f"could not be checked ({type(error).__name__}: {error})"
            findings.append(Finding(name, "warning", text))

    thread = threading.Thread(target=work, daemon=True, name=name)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        text = f"no answer within {seconds:.0f} s"
        return [*findings, Finding(name, "error", text, "something hangs: a driver or a mount")]
    return findings


def conclude(findings: Sequence[Finding]) -> dict[str, Any]:
    """What a run on this machine will use."""
    by_name = {finding.name: finding for finding in findings}
    gpus = [f for f in findings if f.name.startswith("cuda:") and f.status == "ok"]
    cuml = by_name.get("cuml")
    source = by_name.get("source fmnist")
    here = Path("data/fmnist/manifest.json").is_file()
    count = max(len(gpus), 1)
    nvml = any(f.name.startswith("gpu ") for f in findings)
    return {
        "device": f"{len(gpus)} GPU(s)" if gpus else "cpu",
        "process_group": "nccl" if gpus else "gloo",
        "precision": "bf16" if gpus and all("no fast" not in f.value for f in gpus) else "no",
        "model": "auto: fc_conv for images up to 32x32, conv for larger ones",
        "evaluation": "cuml" if cuml and cuml.status == "ok" else "cpu",
        "gpu_figures": "nvml" if nvml else None,
        "data": "data/fmnist"
        if here
        else (source.value.split(":")[0] if source and source.status == "ok" else "a download"),
        "command": f"torchrun --standalone --nproc-per-node {count} launch/train.py --data "
        f"data/fmnist --expect-world-size {count}"
        if count > 1
        else "vae-dist train",
        "torch": torch.__version__,
    }


def faults(findings: Sequence[Finding]) -> list[str]:
    """Errors, then warnings, each with its fix."""
    order = {"error": 0, "warning": 1}
    bad = sorted((f for f in findings if f.status in order), key=lambda f: order[f.status])
    return [f"{f.name}: {f.value}" + (f" -> {f.fix}" if f.fix else "") for f in bad]


def show_group(console: Console, name: str, findings: Sequence[Finding]) -> None:
    """Print a group as it is done."""
    console.print(Text(name, style="bold"))
    for finding in findings:
        line = Text.assemble(
            "  ",
            (f"{finding.status:<8}", STYLES[finding.status]),
            f"{finding.name}: ",
            finding.value,
        )
        console.print(line, soft_wrap=True)
        if finding.fix:
            console.print(Text(f"          {finding.fix}", style="cyan"), soft_wrap=True)


def show_end(console: Console, use: dict[str, Any], wrong: Sequence[str]) -> None:
    """Print the conclusion."""
    console.print(Text("will be used", style="bold"))
    width = max(map(len, use))
    for name, value in use.items():
        console.print(f"  {name.replace('_', ' '):<{width}}  {value or 'none'}", soft_wrap=True)
    console.print(Text("wrong", style="bold"))
    for line in wrong or ["nothing"]:
        console.print(Text(f"  {line}"), soft_wrap=True)
