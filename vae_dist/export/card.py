"""A model card: what a run is, what it was trained on, how good it is, how to use it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vae_dist.models.base import latents_in_words
from vae_dist.run.trained import Run

UNITS = {"ssim": "", "psnr": " dB"}
SHOWN = ("loss", "recon", "kl", "elbo", "ssim", "psnr")


def model_card(run: Run, figures: Sequence[Mapping[str, Any]] = ()) -> str:
    """The text of ``README.md``.

    Parameters
    ----------
    run : Run
        Its folder is read for the figures of validation and for the command, where they are there.
    figures : sequence of mapping
        Test figures of an evaluation: ``name``, ``value``, and ``low`` and ``high`` of its 95 %
        interval, None where it has none.
    """
    config = run.config
    data, model, loss = (config.get(name, {}) for name in ("data", "model", "loss"))
    shape = "x".join(map(str, run.image_shape))
    parameters = sum(p.numel() for p in run.objective.parameters())
    lines = [
        "---",
        "library_name: vae-dist",
        "tags: [variational-autoencoder, image-embedding]",
        "# license: the licence is yours to choose, for example mit",
        "---",
        "",
        f"# {run.name}",
        "",
        f"A variational autoencoder of images {shape} with {latents_in_words(run.latent_shape)} "
        f"(`{model.get('model_type')}`, {parameters:,} parameters), trained with "
        f"[vae-dist]({'https://pypi.org/project/vae-dist'}).",
        "",
        "## Use",
        "",
        "```python",
        "import vae_dist",
        "",
        'run = vae_dist.load_run("this folder")',
        f"mu, logvar = run.encode(images)  # {run.values.dtype} (n, {', '.join(map(str, run.image_shape))})",
        "again = run.decode(mu)",
        "```",
        "",
        "## Training",
        "",
        f"- Data: {data.get('name', 'not recorded')}"
        + (f", fingerprint `{data['fingerprint'][:16]}`" if data.get("fingerprint") else ""),
        f"- {run.num_classes} classes; "
        + ("the model is told the label" if model.get("conditional") else "labels are not used"),
        f"- Likelihood {loss.get('image_loss_type')}, prior {loss.get('prior')}",
        f"- Weights of step {run.step:,}"
        + (", their exponential moving average" if run.averaged else ""),
    ]
    folder = run.path.parents[1] if run.path.is_dir() else None
    if command := _command_of(folder):
        lines += ["", "```", command, "```"]
    found = _validation(folder, run.step)
    if found:
        lines += ["", "## Validation", "", "Nats an image where no unit is given.", ""]
        lines += ["| figure | value |", "|---|---|"]
        lines += [f"| {n} | {found[n]:.4f}{UNITS.get(n, '')} |" for n in SHOWN if n in found]
    if figures:
        lines += ["", "## Test", "", "With the 95 % interval where there is one.", ""]
        lines += ["| figure | value | interval |", "|---|---|---|"]
        for row in figures:
            low, high = row.get("low"), row.get("high")
            interval = "" if low is None or high is None else f"{low:.4f} to {high:.4f}"
            lines.append(f"| {row['name']} | {row['value']:.4f} | {interval} |")
    return "\n".join(lines) + "\n"


def _command_of(folder: Path | None) -> str:
    """The command of the training, without a path of its machine; empty where a program was it."""
    program, *words = _read(folder, "environment.json").get("command") or [""]
    start = {"vae-dist": ["vae-dist"], "cli.py": ["vae-dist"], "train.py": ["vae-dist", "train"]}
    found = start.get(Path(str(program)).name)
    return shlex.join([*found, *map(str, words)]) if found else ""


def _read(folder: Path | None, name: str) -> dict[str, Any]:
    try:
        return json.loads((folder / name).read_text(encoding="utf-8")) if folder else {}
    except (OSError, ValueError):
        return {}


def _validation(folder: Path | None, step: int) -> dict[str, float]:
    """The validation record of a step."""
    if folder is None or not (folder / "metrics.jsonl").is_file():
        return {}
    found: dict[str, float] = {}
    for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # a line that was cut by a kill
            continue
        if record.get("split") == "val" and record.get("step") == step:
            found = record
    return found
