"""What the 2018 program declared and never wrote: ``--predict`` and ``--evaluate``."""

from __future__ import annotations

import numpy as np
import torch

from data_pipeline.errors import UserError
from data_pipeline.files import whole_file
from data_pipeline.folder import DataFolder
from data_pipeline.load.base import Loader
from data_pipeline.load.loader import make_loader
from data_pipeline.order import World
from vae_dist.mirror.fetch import local_copy
from vae_dist.run.folder import RunFolder
from vae_dist.run.resume import restore
from vae_dist.sinks import describe
from vae_dist.train.accelerator import make_accelerator
from vae_dist.train.opening import write_run_files
from vae_dist.train.settings import Settings
from vae_dist.train.signals import Agreement, StopRequest
from vae_dist.train.state import TrainState
from vae_dist.train.validation import validate


def predict(
    settings: Settings, data: DataFolder, *, evaluate: bool, test: bool, train: bool
) -> int:
    """Use the model that ``--resume`` names without training it.

    Parameters
    ----------
    settings : Settings
        ``run.resume`` must name a checkpoint; ``auto`` takes the run's own.
    data : DataFolder
    evaluate : bool
        Print the validation figures.
    test, train : bool
        Write ``predictions/test.npz`` and ``predictions/train.npz`` into the run folder: ``mu`` and
        ``logvar`` float32 (n, z), ``reconstructions`` uint8 (n, C, H, W) (float32 of data
        that are no pixels), ``labels`` and ``index`` int64 (n,).

    Returns
    -------
    int
        Exit code 0.
    """
    run, settings = settings.run, settings.fitted(data.manifest)
    folder = RunFolder(local_copy(run.address) if run.address else settings.folder)
    accelerator = make_accelerator(settings.precision, folder.path, [])
    if accelerator.num_processes > 1:
        raise UserError("--predict, --predict-train and --evaluate run on one process")
    if not run.resume:
        raise UserError("--predict, --predict-train and --evaluate need a model: give --resume")
    loaders = {
        split: make_loader(
            data, split, settings.loader, World(), batch_size=run.batch_size, shuffle=False
        )
        for split in ("train", "val", "test")
        if split in data.manifest.splits
    }
    state = TrainState(settings, data.manifest, accelerator, loaders["train"].steps_per_epoch)
    origin = restore(state, folder.checkpoints, data)
    print(origin.replace("resuming", "using"))
    folder.path.mkdir(parents=True, exist_ok=True)
    if not (folder.path / "config.json").exists():
        write_run_files(folder, state, data)
    if evaluate:
        with state.averaged():
            figures = validate(state, loaders["val"], Agreement(StopRequest(), World()))
        assert figures is not None
        print(f"val   {describe(figures)}")
    for wanted, split in ((test, "test"), (train, "train")):
        if not wanted:
            continue
        if split not in loaders:
            raise UserError(f"{data.path}: has no split {split!r} to predict")
        path = folder.path / "predictions" / f"{split}.npz"
        with state.averaged():
            arrays = _embed(state, loaders[split])
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)
        print(f"{len(arrays['mu']):,} images of {split}: {path}")
    return 0


@torch.no_grad()
def _embed(state: TrainState, loader: Loader) -> dict[str, np.ndarray]:
    objective = state.objective.eval()
    parts: dict[str, list[np.ndarray]] = {}
    for batch in loader.batches():
        batch = batch.to(state.device)
        with state.accelerator.autocast():
            terms = objective(state.to_images(batch, augment=False), None, batch.labels)
        mean = objective.mean_image(terms.logits)
        found = {
            "mu": terms.mu.float(),
            "logvar": terms.logvar.float(),
            "reconstructions": (mean * 255).round().byte() if state.values.are_pixels else mean,
            "labels": batch.labels,
            "index": batch.index,
        }
        for name, tensor in found.items():
            parts.setdefault(name, []).append(tensor.cpu().numpy())
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}
