"""``vae-dist completion SHELL``: a script that completes commands, flags and presets."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import tyro

from launch.config import parse
from launch.setting_files import preset_names

DESCRIPTION = """Print a script that lets a shell complete commands, flags and presets. In ~/.bashrc or
~/.zshrc, or at a prompt: source <(vae-dist completion bash)"""

SCRIPT = """\
_vae_dist() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} before=${{COMP_WORDS[COMP_CWORD-1]}} words
    if ((COMP_CWORD == 1)); then words="{commands}"
    elif [[ $before == --preset ]]; then words="{presets}"
    elif [[ $word == -* ]]; then
        case ${{COMP_WORDS[1]}} in
{cases}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    [[ -n ${{COMPREPLY[*]}} ]] || COMPREPLY=($(compgen -f -- "$word"))
}}
complete -F _vae_dist vae-dist"""


@dataclass(kw_only=True)
class CompletionConfig:
    """Which shell."""

    shell: tyro.conf.Positional[Literal["bash", "zsh"]] = "bash"
    """bash or zsh."""


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist completion ARGV``; returns the exit code."""
    (config,) = parse("completion", [CompletionConfig], argv, DESCRIPTION)
    if config.shell == "zsh":
        print("autoload -U +X bashcompinit && bashcompinit")
    print(script())
    return 0


def script() -> str:
    """The script for bash."""
    from launch.cli import COMMANDS, MODULES

    cases = []
    for name in COMMANDS:
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
            importlib.import_module(f"launch.{MODULES.get(name, name)}").main(["--list-flags"])
        cases.append(f'            {name}) words="{said.getvalue().strip()}" ;;')
    return SCRIPT.format(
        commands=" ".join(COMMANDS), presets=" ".join(preset_names()), cases="\n".join(cases)
    )
