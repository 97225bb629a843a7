"""Settings from presets, TOML files and earlier runs: flat tables whose keys are flag names."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError, files_of_user, nearest
from data_pipeline.remote.reading import RemoteConfig, is_remote, join, read_small
from vae_dist.mirror.places import split_address

PRESETS = Path(__file__).parent / "presets"

NOT_INHERITED = {
    "resume",
    "init-from",
    "overwrite",
    "status-file",
    "expect-world-size",
    "time-limit",
    "start-epoch",
    "allow-other-data",
    "no-cuda",
    "data-device",
    "runs-cache",
}
"""What a resume does not take from the run: it belongs to one start, or to one machine."""


def preset_names() -> list[str]:
    """Names that ``--preset`` takes, sorted."""
    return sorted(path.stem for path in PRESETS.glob("*.toml"))


def preset_path(name: str) -> Path:
    """File of a preset.

    Raises
    ------
    UserError
        If there is none of that name.
    """
    found = re.sub("^seed_", "article2018_", name)  # what they were called at first
    if found not in preset_names():
        raise UserError(f"--preset {name}: no such preset; {nearest(name, preset_names())}")
    return PRESETS / f"{found}.toml"


def read_toml(path: Path, flag: str) -> dict[str, Any]:
    """What a TOML file holds; `flag` is how the user named it, for messages.

    Raises
    ------
    UserError
        If it cannot be read or is no TOML.
    """
    with files_of_user(f"{flag}: cannot be read"):
        content = path.read_bytes()
    try:
        return tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{flag}: not a TOML file: {error}") from error


def read_settings(path: Path, flag: str, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Settings of a TOML file, laid over those of its ``base``.

    Parameters
    ----------
    path : Path
    flag : str
        How the user named it, for messages.
    seen : tuple of Path
        Files whose base this is.

    Returns
    -------
    dict of str to Any
        By flag name, with hyphens.

    Raises
    ------
    UserError
        If the file cannot be read, is no flat table, or its bases go in a circle.
    """
    if path in seen:
        names = " -> ".join(p.stem for p in (*seen, path))
        raise UserError(f"{flag}: base goes in a circle: {names}")
    table = read_toml(path, flag)
    for key, value in table.items():
        if isinstance(value, dict):
            raise UserError(f"{path}: {key} is a table; settings are one flat table")
    base = table.pop("base", None)
    below: dict[str, Any] = {}
    if base is not None:
        own = path.parent / str(base)
        file = own if str(base).endswith(".toml") else preset_path(str(base))
        below = read_settings(file, f"{path}: base {base}", (*seen, path))
    return below | {key.replace("_", "-"): value for key, value in table.items()}


def read_run(resume: str) -> dict[str, Any]:
    """Settings of the run that ``--resume`` names; empty where it names none that is known.

    Parameters
    ----------
    resume : str
        A run folder or a checkpoint of one, or its address. ``auto``, and weights without a run,
        give nothing.
    """
    if is_remote(resume):
        return _read_remote_run(resume)
    path = Path(resume)
    places = [path, path.parent.parent]  # the run's folder, and RUN/checkpoints/NAME
    run = next((p for p in places if resume and (p / "config.json").is_file()), None)
    if run is None or resume == "auto":
        return {}
    with files_of_user(f"--resume {resume}: its config.json cannot be read"):
        text = (run / "config.json").read_bytes()
    return _inherited(text, run.resolve().name, str(run.parent))


def _read_remote_run(resume: str) -> dict[str, Any]:
    run, _ = split_address(resume)
    try:
        text = read_small(join(run, "config.json"), RemoteConfig())
    except FileNotFoundError:
        return {}  # the resume itself says that there is no run
    folder, _, query = run.partition("?")
    parent, _, name = folder.rpartition("/")
    return _inherited(text, name, parent + (f"?{query}" if query else ""))


def _inherited(text: bytes, name: str, runs_dir: str) -> dict[str, Any]:
    try:
        config = json.loads(text)
        owners = [v for k, v in config.items() if isinstance(v, dict) and k != "data"]
        data = config["data"]["path"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # damaged: the resume itself says what is wrong with it
    found = {key.replace("_", "-"): value for owner in owners for key, value in owner.items()}
    found |= {"data": data, "name": name, "runs-dir": runs_dir}
    return {key: value for key, value in found.items() if key not in NOT_INHERITED}
