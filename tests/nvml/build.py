"""Compiles the stand-in for libnvidia-ml.so.1, once for all tests of a machine's session."""

import hashlib
import os
import subprocess
import tempfile
from pathlib import Path

SOURCE = Path(__file__).with_name("stand_in.c")


def build(folder: Path | None = None) -> Path:
    """Compile the library; returns its folder, for LD_LIBRARY_PATH."""
    mark = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    folder = folder or Path(tempfile.gettempdir()) / f"vae-dist-nvml-{os.getuid()}-{mark}"
    folder.mkdir(exist_ok=True)
    library = folder / "libnvidia-ml.so.1"
    if not library.exists():
        part = folder / f"part-{os.getpid()}"
        subprocess.run(
            ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", part, SOURCE], check=True
        )
        part.rename(library)
    return folder


def environment(**variables: str) -> dict[str, str]:
    """Build an environment in which a child process finds the stand-in."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("NVML_", "CUDA_", "SLURM_", "LOCAL_RANK", "RANK", "WORLD_SIZE"))
    }
    root = str(SOURCE.parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return kept | {
        "LD_LIBRARY_PATH": str(build()),
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        **variables,
    }
