"""What the packages offer: there, typed, and nothing imported before it is used."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
OFFERED = {
    "data_pipeline": "open_data write_folder make_loader load_source World Batch",
    "vae_dist": "load_run Run Trainer Settings Callback build_model MODELS VAETransformer",
    "evaluation": "evaluate read_results EvaluateConfig",
}


@pytest.mark.parametrize("package", OFFERED)
def test_every_name_is_there_and_is_no_module(package: str) -> None:
    door = importlib.import_module(package)
    names = set(OFFERED[package].split())
    assert set(door.__all__) == names
    assert set(dir(door)) == names
    for name in names:
        assert type(getattr(door, name)).__name__ != "module"
    with pytest.raises(AttributeError, match=f"{package}.*'nothing'"):
        _ = door.nothing
    assert (ROOT / package / "py.typed").is_file()


def test_names_stay_what_they_are_when_everything_is_imported() -> None:
    """A module of the same name would take a function's place."""
    for package, names in OFFERED.items():
        for path in (ROOT / package).glob("*.py"):
            assert path.stem not in names.split(), path


def test_importing_the_packages_is_fast_and_quiet() -> None:
    script = (
        "import sys, data_pipeline, vae_dist, evaluation\n"
        "heavy = {'torch', 'numpy', 'accelerate', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
