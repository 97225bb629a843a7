"""Runs on the Hugging Face Hub: ``from_pretrained``, ``save_pretrained``, ``push_to_hub``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin, hf_hub_download

from vae_dist.export.folder import save_run
from vae_dist.run.load import load_run
from vae_dist.run.trained import Run

FILES = ("model.safetensors", "config.json")


class HubRun(ModelHubMixin, library_name="vae-dist", tags=["variational-autoencoder"]):
    """A trained run that the Hub's client can fetch and publish; the run itself is ``run``.

    Examples
    --------
    >>> run = HubRun.from_pretrained("user/name").run
    >>> HubRun(load_run("runs/best")).push_to_hub("user/name")
    """

    def __init__(self, run: Run, figures: Sequence[Mapping[str, Any]] = ()) -> None:
        self.run, self.figures = run, figures

    def _save_pretrained(self, save_directory: Path) -> None:
        save_run(self.run, save_directory, self.figures)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        device: str = "auto",
        **model_kwargs: Any,
    ) -> HubRun:
        folder = Path(model_id)
        if not folder.is_dir():
            fetched = [
                hf_hub_download(
                    model_id,
                    name,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                    token=token,
                )
                for name in FILES
            ]
            folder = Path(fetched[0]).parent
        return cls(load_run(folder, device))
