"""``vae-dist slurm``: copy the batch scripts, and files for Accelerate, Kubernetes and SkyPilot."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import shutil
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import UserError, files_of_user
from launch.config import parse

DESCRIPTION = """Copy the Slurm scripts, to edit and submit, and beside them accelerate/ (configurations)
and cloud/ (Kubernetes Job and JobSet, SkyPilot)."""
PROJECT = Path(__file__).parents[1]


@dataclasses.dataclass(kw_only=True)
class SlurmConfig:
    """The copies: where they go."""

    out: Path = Path("slurm")
    """Folder to write; files that are there and differ are kept unless --overwrite True."""
    overwrite: bool = False
    """Replace files that are there and differ."""


def main(argv: Sequence[str]) -> int:
    """Copy the scripts; returns the exit code."""
    (config,) = parse("slurm", [SlurmConfig], argv, DESCRIPTION)
    scripts = {f"{p.parent.name}/{p.name}" if p.suffix == ".yaml" else p.name: p for p in sources()}
    changed = [n for n, p in scripts.items() if _differs(config.out / n, p)]
    if changed and not config.overwrite:
        raise UserError(
            f"--out {config.out}: {', '.join(changed)} there differ from what this version ships; "
            "Fix: give another folder, or --overwrite True"
        )
    with files_of_user(f"--out {config.out}: cannot be written"):
        for name, path in scripts.items():
            target = config.out / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            target.chmod(0o755 if path.suffix == ".sh" else 0o644)
    for name in scripts:
        print(config.out / name)
    print(f"submit from the folder above {config.out}: sbatch {config.out}/train.sbatch --help")
    return 0


def sources() -> list[Path]:
    """The scripts that this installation ships: of the checkout, or what the wheel installed."""
    launch = PROJECT / "launch"
    configurations = sorted([*launch.glob("accelerate/*.yaml"), *launch.glob("cloud/*.yaml")])
    if (PROJECT / "slurm").is_dir() and (PROJECT / "pyproject.toml").is_file():
        return [*sorted(p for p in (PROJECT / "slurm").iterdir() if p.is_file()), *configurations]
    installed = importlib.metadata.files("vae-dist") or []
    found = [Path(str(f.locate())) for f in installed if f.parent.parts[-3:] == SHARE]
    return [*sorted(found), *configurations]


SHARE = ("share", "vae-dist", "slurm")  # pyproject.toml, data-files


def _differs(target: Path, source: Path) -> bool:
    with files_of_user(f"{target}: cannot be read"):
        return target.exists() and target.read_bytes() != source.read_bytes()
