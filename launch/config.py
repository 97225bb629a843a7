"""From argv, presets and TOML files to checked configuration dataclasses.

Precedence: flags, then ``--config FILE.toml``, then ``--preset NAME``, then the settings of the run
that ``--resume`` names, then defaults. Presets and files are turned into flags and put in front of the user's own, so that there
is one parser, one set of names and one kind of error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import re
import typing
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tyro

from data_pipeline.checks import OF_RUN
from data_pipeline.errors import UserError, nearest
from launch.complaints import in_plain_words
from launch.help import show_help
from launch.processes import may_speak
from launch.setting_files import preset_path, read_run, read_settings

_TRUE = {"true", "t", "yes", "y", "1"}
_FALSE = {"false", "f", "no", "n", "0"}


@dataclasses.dataclass(kw_only=True)
class SettingsConfig:
    """Where settings come from: flags, then --config, then --preset, then defaults."""

    config: Path | None = None
    """A TOML file of settings: one flat table whose keys are flag names; base = "NAME" starts from
    a preset."""
    preset: str | None = None
    """A named run; `vae-dist presets` lists them."""


def parse(
    prog: str,
    configs: Sequence[type],
    argv: Sequence[str],
    description: str = "",
    common: Sequence[str] = (),
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
    common : sequence of str
        Fields that ``--help`` lists, in this order; ``--help-all`` lists all. Empty: all.

    Returns
    -------
    tuple
        One instance for each of `configs`, in that order.

    Raises
    ------
    UserError
        If a flag, a preset, a file or a value is wrong; one line.
    """
    owners = [*configs, SettingsConfig]
    names = _flag_names(owners)
    prog = f"vae-dist {prog}"
    show_help(prog, owners, argv, description, common)
    _check_flags(list(argv), names, prog)
    argv = _spell_booleans(list(argv), names)
    tokens = [*_tokens_of_files(argv, names, prog), *argv]
    tokens = _spell_booleans(tokens, names)
    root = dataclasses.make_dataclass(
        "Settings",
        [(_owner_name(c), c, dataclasses.field(default_factory=c)) for c in owners],
        kw_only=True,
    )
    parsed = _run_tyro(root, tokens, prog)
    found = tuple(getattr(parsed, _owner_name(c)) for c in configs)
    for config in found:
        _settle_addresses(config)
    return found


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


def _tokens_of_files(argv: list[str], names: dict[str, bool], prog: str) -> Iterator[str]:
    """Words for the settings of the resumed run, the preset and the file, in this order."""
    tables: list[tuple[str, dict[str, Any]]] = []
    preset, config = _last_value(argv, "preset"), _last_value(argv, "config")
    if preset is not None:
        tables.append((f"--preset {preset}", read_settings(preset_path(preset), "--preset")))
    if config is not None:
        tables.append((config, read_settings(Path(config), f"--config {config}")))
    for where, table in tables:
        for key in table:
            if key not in names or key in ("config", "preset"):
                fix = nearest(key, names) if key not in names else "give it as a flag"
                raise UserError(f"{where}: {key!r} is no setting of {prog}; {fix}")
    given = [table.get("resume") for _, table in tables] + [_last_value(argv, "resume")]
    resume = next((str(value) for value in reversed(given) if value is not None), "")
    if resume and "resume" in names:
        inherited = {key: value for key, value in read_run(resume).items() if key in names}
        if _last_value(argv, "dataset") or _last_value(argv, "dataset-type"):
            inherited.pop("data", None)
        code, tables_name_it = (
            str(inherited.get("model-type")),
            ["model-type" in t for _, t in tables],
        )
        if ":" in code and _last_value(argv, "model-type") is None and not any(tables_name_it):
            raise UserError(  # a file of others runs no code
                f"--resume {resume}: its model is the code of {code}, which is not a part of "
                f"vae-dist; Fix: if you trust it, give --model-type {code} too"
            )
        yield from _tokens(inherited)
    for _, table in tables:
        yield from _tokens(table)


def _tokens(table: dict[str, Any]) -> Iterator[str]:
    for flag, value in table.items():
        if value is not None and value != []:
            yield f"--{flag}"
            yield from map(str, value if isinstance(value, list) else [value])


def _last_value(argv: list[str], name: str) -> str | None:
    value = None
    for position, token in enumerate(argv):
        if _flag_key(token) == name:
            _, given, value_in_token = token.partition("=")
            following = argv[position + 1] if position + 1 < len(argv) else None
            value = value_in_token if given else following
    return value


def _check_flags(argv: list[str], names: dict[str, bool], prog: str) -> None:
    """Refuse a flag that there is not, with the one that was probably meant."""
    for token in argv:
        key = _flag_key(token)
        if key is not None and key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            fix = f"did you mean --{near[0]}?" if near else f"{prog} --help-all lists all"
            raise UserError(f"--{key}: {prog} has no such flag; {fix}")


def _settle_addresses(config: Any) -> None:
    """Fetch the runs that are at addresses; refuse an address where another path is wanted.

    ``s3://a`` would become a folder named ``s3:``.
    """
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        many = isinstance(value, list | tuple)
        paths = list(value) if many else [value]
        addresses = [_address_of(path) for path in paths]
        if not any(addresses):
            continue
        if OF_RUN not in getattr(hints[field.name], "__metadata__", ()):
            raise UserError(
                f"--{field.name.replace('_', '-')} {next(filter(None, addresses))}: is an address, "
                "and this flag takes a path on this machine; Fix: give a path, and copy it afterwards"
            )
        from vae_dist.mirror.fetch import local_copy

        settled = [local_copy(a) if a else p for a, p in zip(addresses, paths, strict=True)]
        setattr(config, field.name, type(value)(settled) if many else settled[0])


def _address_of(value: Any) -> str:
    """The address that a path was made of, which lost a slash; empty for anything else."""
    match = re.match(r"(\w[\w+.-]+):/+(.*)", str(value)) if isinstance(value, Path) else None
    return f"{match[1]}://{match[2]}" if match else ""


def _run_tyro(root: type, argv: list[str], prog: str) -> Any:
    complaints = io.StringIO()
    try:
        with (
            contextlib.redirect_stderr(complaints),
            warnings.catch_warnings(record=True, action="always", category=UserWarning) as told,
        ):
            parsed: Any = tyro.cli(
                root,
                args=argv,
                prog=prog,
                config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff),
            )
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise UserError(in_plain_words(complaints.getvalue())) from None
    if may_speak():  # a setting without effect, which tyro may have made more than once
        for text in dict.fromkeys(str(each.message) for each in told):
            warnings.warn(text, stacklevel=3)
    return parsed
