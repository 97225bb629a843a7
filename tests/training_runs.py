"""Small training runs for the tests: what they train on, and how they are started.

As a script it runs several trainings in one process group: ``torchrun tests/training_runs.py
OUT DATA WORLD``; importing torch once for all of them keeps the tests fast.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).parent.parent
TRAIN = ROOT / "launch" / "train.py"

COMMON = {
    "model_type": "fc",
    "latent_size": 3,
    "epochs": 2,
    "log_every": 1,
    "checkpoint_every": 2,
    "keep_last": 9,
    "tensorboard": False,
    "telemetry_interval": 0,
    "resume": "auto",
}

SCENARIOS: dict[str, dict[str, object]] = {
    "plain": {},
    "accumulate": {"accumulate": 3},
    "stream": {"loader": "stream"},
    "stream_workers": {"loader": "stream", "workers": 2},
    "bad_shard": {"loader": "stream", "on_bad_shard": "skip"},  # on a damaged copy of the data
    "balance": {"do_running_mean": True},
    "augment": {"augment": "flip,rotate,crop,colour"},
    "denoise": {
        "augment": "erase",
        "augment_target": "original",
        "prior": "flow",
        "prior_couplings": 2,
        "accumulate": 2,
    },
    "iwae": {"objective": "iwae", "importance_samples": 3},
    "conditional": {"conditional": True},
    "conv_vamp": {"model_type": "conv", "conv_width": 8, "prior": "vamp", "prior_components": 5},
    "grid": {
        "model_type": "conv",
        "conv_width": 4,
        "latent_grid": 2,
        "latent_factor": 2,
        "latent_size": 10,
        "checkpoint_activations": True,
        "accumulate": 2,
    },
    "mixture_mse": {"image_loss_type": "mse", "prior": "mixture", "prior_components": 5},
    "uneven_memory": {"find_batch_size": True},  # rank 0 finds room for more than the others
    "averaged": {"ema": 0.9, "schedule": "plateau", "plateau_patience": 1},
    "frozen": {"freeze": "encoder"},
    "clip": {"grad_clip": 0.5, "schedule": "cosine", "warmup_epochs": 0.5},
}
"""Name to flags. Each runs on 1, 2 and 4 processes and must give the same losses."""

LEAST_ROOM = 20
"""Images that fit on the ranks above 0 of ``uneven_memory``."""


def flags(settings: dict[str, object]) -> list[str]:
    """Settings as words of a command line."""
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def environment(**more: str) -> dict[str, str]:
    """This process's environment for a child that runs the tree under test."""
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    return {**os.environ, **quiet, **more}


def torchrun(processes: int, *words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a script under torchrun on this machine, with a port of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(), timeout=600, **options
    )


def metrics(run: Path, split: str | None = None) -> list[dict[str, float]]:
    """Records of a run."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return [r for r in records if split in (None, r["split"])]


def run_all(out: Path, data: Path, batch_size: int, names: list[str]) -> None:
    """Run scenarios one after another in this process (group)."""
    sys.path.insert(0, str(ROOT))
    from launch.train import main
    from vae_dist.memory import plan as fit

    for name in names:
        settings = {**COMMON, **SCENARIOS.get(name, {}), "batch_size": batch_size}
        settings |= {"runs_dir": out, "name": name, "data": data}
        if name == "bad_shard":
            settings["data"] = f"{data}_bad"
        if name == "resumed":  # from the middle of an epoch of the one-process run
            settings["resume"] = out.parent / "world1" / "plain" / "checkpoints" / "step-00000002"
        found = uneven if name == "uneven_memory" else fit.find_micro_batch
        with mock.patch.object(fit, "find_micro_batch", found):
            code = main(flags(settings))
        assert code == 0, f"{name} ended with {code}"


def uneven(probe: object, largest: int) -> int:
    """What a rank finds where rank 0 has the most memory."""
    return LEAST_ROOM if int(os.environ.get("RANK", "0")) else largest


if __name__ == "__main__":
    run_all(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
