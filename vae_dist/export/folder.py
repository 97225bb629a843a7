"""A run as a folder to give away: ``model.safetensors``, ``config.json``, a model card.

`load_run` reads it, so does the Hub's own ``from_pretrained``. It holds the weights that are
used (the moving average where there is one), nothing of the optimizer, and no path of the
machine that it was trained on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file

from data_pipeline.files import write_json
from vae_dist.export.card import model_card
from vae_dist.run.checkpoint import SCHEMA
from vae_dist.run.load import load_run
from vae_dist.run.trained import Run

KEPT = ("name", "fingerprint", "mean", "std", "dtype", "scale", "types")


def save_run(run: Run, folder: Path, figures: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write the folder's files; `figures` are for `model_card`."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n: t.detach().cpu().contiguous() for n, t in run.objective.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    data, channels = run.config.get("data", {}), run.image_shape[0]
    scale = {"mean": [0.0] * channels, "std": [1.0] * channels}
    write_json(
        folder / "config.json",
        {
            "schema": SCHEMA,
            "image_shape": list(run.image_shape),
            "num_classes": run.num_classes,
            "classes": run.config.get("classes", []),
            "data": scale | {name: data[name] for name in KEPT if name in data},
            "model": run.config["model"],
            "loss": run.config["loss"],
            "exported": {"run": run.name, "step": run.step, "averaged": run.averaged},
        },
    )
    (folder / "README.md").write_text(model_card(run, figures), encoding="utf-8")


def compare(run: Run, folder: Path) -> dict[str, float]:
    """The largest absolute difference of each output between a run and what was written of it."""
    again = load_run(folder, run.device, allow_code=True)  # written here, of a loaded run
    low, high = run.values.scale or (-1, 1)
    drawn = np.random.default_rng(0).uniform(low, high, (7, *run.image_shape))
    images = drawn.astype(run.values.numpy)
    (mu, logvar), (mu2, logvar2) = run.encode(images), again.encode(images)
    pairs = {"mu": (mu, mu2), "logvar": (logvar, logvar2)}
    pairs["decoded"] = (run.decode(mu), again.decode(mu))
    found = {name: float(np.abs(a - b).max()) for name, (a, b) in pairs.items()}
    if any(found.values()):
        raise RuntimeError(f"{folder}: what was written differs from the run: {found}")
    return found
