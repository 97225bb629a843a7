"""Trains every model with every loss and prints docs/models.md's table.

    python benchmarks/models_table.py --data data/fmnist --out runs/models_table

Each row is one run of ``vae-dist train``; rows whose run is complete already are read, not
trained again, so a stopped table goes on where it stood. ``--print-only`` reads alone.
``--max-steps 60`` with another ``--out`` measures speed alone, on a machine that is idle.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

MODELS = {
    "fc_conv": [],
    "fc": [],
    "fcns_1n": [],
    "fcns": [],
    "fcn": ["--model-multiplier", "1"],
    "conv": ["--conv-width", "8"],
}
"""Flags that bring the two largest models to a size two cores can train."""
LOSSES = ("bce", "mse", "ssim")
ROOT = Path(__file__).parents[1]


def train(arguments: argparse.Namespace, name: str, model: str, loss: str) -> None:
    """Train one row, unless it is there."""
    out = arguments.out / name
    if (out / "row.json").is_file():
        return
    command = [
        *(sys.executable, "-m", "launch.cli", "train", "--overwrite", "True"),
        *("--data", str(arguments.data), "--runs-dir", str(arguments.out), "--name", name),
        *("--model-type", model, "--image-loss-type", loss, *MODELS[model]),
        *("--epochs", str(arguments.epochs), "--batch-size", str(arguments.batch_size)),
        *("--schedule", "constant", "--no-cuda", "True", "--max-steps", str(arguments.max_steps)),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, cwd=Path.cwd(), env=environment)
    (out / "row.json").write_text(json.dumps({"command": command[1:]}) + "\n")


def read(arguments: argparse.Namespace, name: str) -> dict[str, float]:
    """Figures of a trained row: the last validation, the median speed, the parameters."""
    from vae_dist.run.load import load_run

    folder = arguments.out / name
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    last = [record for record in records if record["split"] == "val"][-1]
    speeds = [r["images_per_second"] for r in records if r["split"] == "train"]
    run = load_run(folder, which="last")
    return {
        "parameters": sum(p.numel() for p in run.objective.parameters()),
        "steps_per_second": statistics.median(speeds) / arguments.batch_size,
        **{key: last[key] for key in ("epoch", "ssim", "psnr", "recon", "kl", "elbo")},
    }


def main() -> int:
    """Train what is missing, print the table, fail if a row's SSIM is .5 or less."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("data/fmnist"))
    parser.add_argument("--out", type=Path, default=Path("runs/models_table"))
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--losses", nargs="*", default=list(LOSSES), choices=LOSSES)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--max-steps", type=int, default=0)
    parser.add_argument("--print-only", action="store_true")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    failed = []
    rows = []
    for model in arguments.models:
        for loss in arguments.losses:
            name = f"{model}-{loss}"
            if not arguments.print_only:
                train(arguments, name, model, loss)
            if not (arguments.out / name / "row.json").is_file():
                continue
            row = read(arguments, name)
            failed += [name] if row["ssim"] <= 0.5 and not arguments.max_steps else []
            flags = " ".join(MODELS[model])
            rows.append(
                f"| `{model}`{' `' + flags + '`' if flags else ''} | {loss} "
                f"| {row['parameters']:,} | {row['steps_per_second']:.0f} | {row['epoch']:.2g} "
                f"| {row['ssim']:.3f} | {row['psnr']:.1f} | {row['recon']:.1f} "
                f"| {row['kl']:.1f} | {row['elbo']:.1f} |"
            )
    print("| model | loss | parameters | steps/s | epochs | SSIM | PSNR | recon | KL | ELBO |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    if failed:
        print(f"SSIM of .5 or less: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
