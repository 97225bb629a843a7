"""``vae-dist export``: a run in a form that others use, checked before the command ends."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from data_pipeline.checks import OF_RUN
from data_pipeline.errors import UserError, files_of_user
from launch.config import parse

if TYPE_CHECKING:
    from vae_dist.run.trained import Run

DESCRIPTION = """Write a trained run as safetensors, torch.export, ONNX, or for the Hugging Face Hub.

What was written is read again and compared with the run itself; the largest difference is printed."""


@dataclasses.dataclass(kw_only=True)
class ExportConfig:
    """Which run, in which form, to where."""

    run: Annotated[Path, OF_RUN]
    """A run folder, a checkpoint folder or the address of one, or a .pth.tar of the 2018 program."""
    to: Literal["safetensors", "torch.export", "onnx", "hub"] = "safetensors"
    """safetensors: a folder of weights, config.json and a model card; hub: the same, published
    with --repo-id; torch.export and onnx: encoder and decoder as programs of any batch size."""
    out: Path
    """Folder to write."""
    which: Literal["best", "last"] = "best"
    """Which of a run's checkpoints."""
    allow_code: bool = False
    """Import the module that a run's config.json names, where its model is code of your own
    (--model-type MODULE:CLASS): only for runs that you trust."""
    results: Path | None = None
    """An evaluation folder, whose test figures of this run go into the model card."""
    repo_id: str = ""
    """hub: USER/NAME to push to; empty: only write the folder."""
    private: bool = False
    """hub: make a new repository private."""
    overwrite: bool = False
    """Replace an earlier export at --out."""

    def __post_init__(self) -> None:
        if self.repo_id and self.to != "hub":
            raise UserError(f"--repo-id {self.repo_id}: has no effect without --to hub")
        if self.results is not None and self.to not in ("safetensors", "hub"):
            raise UserError(f"--results {self.results}: --to {self.to} writes no model card")


MADE_HERE = {"model.safetensors", "config.json", "README.md"} | {
    f"{part}.{suffix}" for part in ("encoder", "decoder") for suffix in ("pt2", "onnx")
}


def main(argv: Sequence[str]) -> int:
    """Run ``vae-dist export ARGV``; returns the exit code."""
    (config,) = parse("export", [ExportConfig], argv, DESCRIPTION)
    from data_pipeline.write.building import building_site, publish
    from vae_dist.run.load import load_run

    out = config.out.expanduser().absolute()
    _check_free(out, config.overwrite)
    run = load_run(config.run, "cpu", config.which, allow_code=config.allow_code)
    figures = _figures(config.results, run)
    with (
        files_of_user(f"--out {config.out}: cannot be written"),
        building_site(out) as partial,
    ):
        build = partial / "export"
        shutil.rmtree(build, ignore_errors=True)
        build.mkdir()
        if config.to in ("safetensors", "hub"):
            from vae_dist.export.folder import compare, save_run

            save_run(run, build, figures)
            found = compare(run, build)
        else:
            from vae_dist.export.programs import export_programs

            found = export_programs(run, config.to, build)
        publish(build, out, partial)
    told = ", ".join(f"{name} {value:.2g}" for name, value in found.items())
    names = ", ".join(sorted(path.name for path in out.iterdir()))
    print(f"{run}: {names} in {config.out}")
    print(f"largest difference from the run itself: {told}")
    if config.to == "hub":
        print(_push(run, config, figures))
    return 0


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    ours = out.is_dir() and {path.name for path in out.iterdir()} <= MADE_HERE
    if not ours:
        raise UserError(f"--out {out}: exists and is no export; give another folder")
    if not overwrite and any(out.iterdir()):
        raise UserError(f"--out {out}: holds an export; give another folder, or --overwrite True")


def _figures(results: Path | None, run: Run) -> list[dict[str, Any]]:
    """Test figures of the run, from the evaluation's leaderboard."""
    if results is None:
        return []
    from evaluation.results.files import read_results
    from evaluation.results.leaderboard import leaderboard

    found = read_results(results)
    lines = [line for line in leaderboard(found) if line["run"] == run.name]
    if not lines:
        names = ", ".join(info.name for info in found.runs) or "none"
        raise UserError(f"--results {results}: has no run {run.name}; it has {names}")
    figures = []
    for line in lines:
        for name in ("knn_test_accuracy", "trustworthiness", "ssim", "elbo"):
            if line.get(name) is not None:
                knn = name == "knn_test_accuracy"
                figures.append(
                    {
                        "name": f"{line['title']}: {name}" + (f" (k = {line['k']})" * knn),
                        "value": line[name],
                        "low": line["ci_low"] if knn else None,
                        "high": line["ci_high"] if knn else None,
                    }
                )
    return figures


def _push(run: Run, config: ExportConfig, figures: list[dict[str, Any]]) -> str:
    if not config.repo_id:
        return f"not published: give --repo-id USER/NAME, or upload {config.out} as it is"
    try:
        from huggingface_hub.errors import HfHubHTTPError

        from vae_dist.export.hub import HubRun
    except ImportError:
        raise UserError(
            "--to hub: needs huggingface_hub; Fix: pip install 'vae-dist[hf]'"
        ) from None
    try:
        return (
            f"published: {HubRun(run, figures).push_to_hub(config.repo_id, private=config.private)}"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"--repo-id {config.repo_id}: not published ({reason})") from error
