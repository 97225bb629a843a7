"""``vae-dist verify``: check a data folder and name every fault."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from data_pipeline.errors import UserError
from data_pipeline.folder.verify import verify
from data_pipeline.load.config import LoaderConfig
from data_pipeline.redact import shown
from data_pipeline.remote.reading import RemoteConfig
from launch.config import parse


@dataclass(kw_only=True)
class VerifyConfig:
    """What is checked."""

    folder: tyro.conf.Positional[str] = ""
    """Data folder, or its address."""
    json: bool = False
    """Print one JSON object and nothing else."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist verify ARGV``: 0 if the folder is whole, 1 if it has faults."""
    config, remote = parse(
        "verify",
        [VerifyConfig, RemoteConfig],
        argv,
        "Read a data folder whole, compare it with its manifest, and name every fault.",
    )
    if not config.folder:
        raise UserError("verify needs a data folder: vae-dist verify DIR")
    where, faults = shown(config.folder), verify(config.folder, LoaderConfig(**vars(remote)))
    if config.json:
        print(json.dumps({"path": where, "whole": not faults, "faults": faults}))
    else:
        for fault in faults:
            print(fault)
        count = f"{len(faults)} fault" + ("s" if len(faults) != 1 else "")
        print(f"{where}: {count if faults else 'whole'}")
    return 1 if faults else 0
