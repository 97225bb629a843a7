"""From argv, presets and TOML files to checked configuration dataclasses.

Precedence: flags, then ``--config FILE.toml``, then ``--preset NAME``, then defaults.
Presets and files are turned into flags and put in front of the user's own, so that there
is one parser, one set of names and one kind of error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import tomllib
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from data_pipeline.errors import UserError, files_of_user

PRESETS = Path(__file__).parent / "presets"

_TRUE = {"true", "t", "yes", "y", "1"}
_FALSE = {"false", "f", "no", "n", "0"}


@dataclasses.dataclass(kw_only=True)
class SettingsConfig:
    """Where settings come from: flags, then --config, then --preset, then defaults."""

    config: Path | None = None
    """A TOML file of settings: one flat table, keys are flag names."""
    preset: str | None = None
    """A named run of launch/presets."""


def parse(
    prog: str, configs: Sequence[type], argv: Sequence[str], description: str = ""
) -> tuple[Any, ...]:
    """Build configuration dataclasses from one flat set of flags.

    Parameters
    ----------
    prog : str
        Name of the command, as in ``"train"``.
    configs : sequence of dataclass types
        Owners of the flags; field names must not repeat among them.
    argv : sequence of str
        The words after the command.
    description : str
        Shown at the head of ``--help``.

    Returns
    -------
    tuple
        One instance for each of `configs`, in that order.

    Raises
    ------
    ValueError
        If a flag, a preset, a file or a value is wrong; one line.
    """
    owners = [*configs, SettingsConfig]
    names = _flag_names(owners)
    argv = _spell_booleans(list(argv), names)
    tokens = [*_tokens_of_files(argv, names), *argv]
    tokens = _spell_booleans(tokens, names)
    root = dataclasses.make_dataclass(
        "Settings",
        [(_owner_name(c), c, dataclasses.field(default_factory=c)) for c in owners],
        kw_only=True,
    )
    parsed = _run_tyro(root, tokens, f"vae-dist {prog}", description)
    found = tuple(getattr(parsed, _owner_name(c)) for c in configs)
    for config in found:
        _refuse_addresses(config)
    return found


def preset_names() -> list[str]:
    """Names that ``--preset`` takes, sorted."""
    return sorted(p.stem for p in PRESETS.glob("*.toml"))


def _owner_name(config: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", config.__name__.removesuffix("Config")).lower()


def _flag_names(owners: Sequence[type]) -> dict[str, bool]:
    """Every spelling of every flag, hyphenated and without dashes, to whether it is boolean."""
    names: dict[str, bool] = {}
    for owner in owners:
        hints = typing.get_type_hints(owner, include_extras=True)
        for field in dataclasses.fields(owner):
            hint = hints[field.name]
            spellings = [field.name]
            for note in getattr(hint, "__metadata__", ()):
                spellings += [a.lstrip("-") for a in getattr(note, "aliases", None) or ()]
            bare = typing.get_args(hint)[0] if hasattr(hint, "__metadata__") else hint
            for spelling in spellings:
                key = spelling.replace("_", "-")
                assert key not in names, f"flag --{key} has two owners"
                names[key] = bare is bool
    return names


def _flag_key(token: str) -> str | None:
    match = re.match(r"--([A-Za-z][\w-]*)", token)
    return match.group(1).replace("_", "-") if match else None


def _spell_booleans(argv: list[str], names: dict[str, bool]) -> list[str]:
    """Let ``--flag`` mean ``--flag True`` and take yes, no, 1, 0 ... as the 2018 program does."""
    words: list[str] = []
    position = 0
    while position < len(argv):
        token = argv[position]
        position += 1
        key = _flag_key(token)
        if key is None or not names.get(key, False):
            words.append(token)
            continue
        flag, given, value = token.partition("=")
        if not given and position < len(argv) and not argv[position].startswith("--"):
            value, given = argv[position], "="
            position += 1
        value = value.lower() if given else "true"
        if value not in _TRUE | _FALSE:
            raise UserError(f"{flag} {value}: expected True or False")
        words += [flag, str(value in _TRUE)]
    return words


def _tokens_of_files(argv: list[str], names: dict[str, bool]) -> Iterator[str]:
    preset = _last_value(argv, "preset")
    if preset is not None:
        # Until version 0.1 the 2018 article was called "seed" in names; those are still understood.
        path = PRESETS / f"{re.sub('^seed_', 'article2018_', preset)}.toml"
        if not path.is_file():
            raise UserError(f"--preset {preset}: no such preset; have {', '.join(preset_names())}")
        yield from _tokens_of_file(path, names, f"--preset {preset}")
    config = _last_value(argv, "config")
    if config is not None:
        path = Path(config)
        yield from _tokens_of_file(path, names, f"--config {config}")


def _last_value(argv: list[str], name: str) -> str | None:
    value = None
    for position, token in enumerate(argv):
        if _flag_key(token) == name:
            _, given, value_in_token = token.partition("=")
            following = argv[position + 1] if position + 1 < len(argv) else None
            value = value_in_token if given else following
    return value


def _tokens_of_file(path: Path, names: dict[str, bool], flag: str) -> Iterator[str]:
    with files_of_user(f"{flag}: cannot be read"):
        content = path.read_bytes()
    try:
        table = tomllib.loads(content.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from error
    for key, value in table.items():
        flag = key.replace("_", "-")
        if flag not in names or flag in ("config", "preset"):
            raise UserError(f"{path}: unknown setting {key!r}; keys are flag names (see --help)")
        if isinstance(value, dict):
            raise UserError(f"{path}: {key} is a table; settings are one flat table")
        yield f"--{flag}"
        yield from map(str, value if isinstance(value, list) else [value])


def _refuse_addresses(config: Any) -> None:
    """Refuse an address where a path is wanted: ``s3://a`` would become a folder named ``s3:``."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        for path in value if isinstance(value, list) else [value]:
            address = (
                re.match(r"(\w[\w+.-]+):/+(.*)", str(path)) if isinstance(path, Path) else None
            )
            if address:
                scheme, rest = address.groups()
                raise UserError(
                    f"--{field.name.replace('_', '-')} {scheme}://{rest}: is an address, and this "
                    "flag takes a path on this machine; Fix: give a path, and copy it afterwards"
                )


def _run_tyro(root: type, argv: list[str], prog: str, description: str) -> Any:
    complaints = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaints):
            return tyro.cli(
                root,
                args=argv,
                prog=prog,
                description=description,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(_one_line(complaints.getvalue())) from None


def _one_line(box: str) -> str:
    """The sentence inside the box that tyro draws around a complaint."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", box)
    lines = [line.strip("│╭╮╰╯ ").strip() for line in text.splitlines()]
    said: list[str] = []
    for line in lines:
        if line.startswith("─") or not line:  # borders and rules
            if said and not line.startswith("─ "):
                if any("nrecognized" in s for s in said) and "meant" not in said[-1]:
                    continue
                break
            continue
        if line.startswith("For full helptext"):
            break
        said.append(line)
    # "Error parsing run: --epochs must be ..." : the owner's name says nothing to the user.
    return re.sub(r"^Error parsing [a-z_]+: (?=--)", "", " ".join(said))
