"""Whether training still learns what the 2018 article reports: its command, over some seeds.

    python -m benchmarks.learning --data data/fmnist

Trains the article's best model by the flags of its own README, 30 epochs of Fashion-MNIST, once a
seed, one after another, and fails if the last validations have a mean SSIM below .67 (the article
reports .6718 of one training). A seed takes about 70 seconds on one core. Runs that are complete are
read, not trained again. Other flags go to the training.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
COMMAND = [
    "--epochs",
    "30",
    "--batch-size",
    "512",
    "--model_type",
    "fc_conv",
    "--dataset_type",
    "fmnist",
    "--latent_space_size",
    "10",
    "--do_augs",
    "False",
    "--lr",
    "1e-3",
    "--m1",
    "40",
    "--m2",
    "50",
    "--optimizer",
    "adam",
    "--do_running_mean",
    "False",
    "--img_loss_weight",
    "1.0",
    "--kl_loss_weight",
    "1.0",
    "--image_loss_type",
    "bce",
    "--ssim_window_size",
    "5",
    "--print-freq",
    "10",
    "--tensorboard",
    "True",
    "--tensorboard_images",
    "True",
]
"""The article's command, but for its seed and its name."""
LEAST_SSIM = 0.67


def learn(data: Path, out: Path, seed: int, more: list[str]) -> dict[str, Any]:
    """The last validation of one training, and its wall-clock ``seconds``."""
    run = out / f"seed{seed}"
    taken = run / "learning.json"
    if not taken.is_file():
        command = [sys.executable, str(ROOT / "launch" / "train.py"), *COMMAND, *more]
        command += ["--seed", str(seed), "--lognumber", run.name, "--data", str(data)]
        command += ["--runs-dir", str(out), "--overwrite", "True"]
        begun = time.perf_counter()
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        taken.write_text(json.dumps({"seconds": time.perf_counter() - begun}) + "\n")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last = [record for record in records if record["split"] == "val"][-1]
    return last | json.loads(taken.read_text())


def main() -> int:
    """Train, print a line a seed, fail if their mean is below .67."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/fmnist"))
    parser.add_argument("--out", type=Path, default=Path("runs/learning"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    arguments, more = parser.parse_known_args()
    scores = []
    for seed in arguments.seeds:
        found = learn(arguments.data, arguments.out, seed, more)
        figures = "  ".join(f"{name} {found[name]:.4f}" for name in ("ssim", "recon", "kl"))
        print(
            f"seed {seed}: epoch {found['epoch']:g}  {figures}  {found['seconds']:.0f} s",
            flush=True,
        )
        scores.append(found["ssim"])
    mean = statistics.mean(scores)
    print(f"mean SSIM {mean:.4f} of {len(scores)} seed(s), at least {LEAST_SSIM} wanted")
    return 0 if mean >= LEAST_SSIM else 1


if __name__ == "__main__":
    sys.exit(main())
