"""``vae-dist presets``: the named runs, or the settings of one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from launch.config import parse
from launch.setting_files import preset_names, preset_path, read_settings


@dataclass(kw_only=True)
class PresetsConfig:
    """What is shown."""

    name: tyro.conf.Positional[str] = ""
    """A preset, to see its settings; without one all are listed."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist presets ARGV``; returns the exit code."""
    (config,) = parse("presets", [PresetsConfig], argv, "List the named runs, or show one.")
    if config.name:
        path = preset_path(config.name)
        head = [line for line in path.read_text().splitlines() if line.startswith("#")]
        settings = read_settings(path, config.name)
        print(
            "\n".join(
                [*head, *(f"{k.replace('-', '_')} = {json.dumps(settings[k])}" for k in settings)]
            )
        )
        return 0
    names = preset_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {summary(name)}")
    print("\nvae-dist train --preset NAME trains it; vae-dist presets NAME shows its settings.")
    return 0


def summary(name: str) -> str:
    """The first sentence of a preset's head."""
    lines = preset_path(name).read_text().splitlines()
    text = " ".join(line.lstrip("# ") for line in lines if line.startswith("# "))
    return (
        text.split("  ")[0]
        .partition(" vae-dist train")[0]
        .partition(" accelerate launch")[0]
        .strip()
    )
