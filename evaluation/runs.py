"""Runs and images: what an evaluation reads, and the latents of each run."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder
from data_pipeline.order import World
from evaluation.cache import Cache, Shape, check_array
from evaluation.encode import Images, describe_run, encode_part, join_parts
from evaluation.files import read_arrays, write_arrays
from evaluation.items import file_name
from evaluation.results.records import Failure, RunInfo
from evaluation.settings import EvaluateConfig
from evaluation.stages import Stages, cost_arrays
from vae_dist.run.checkpoint import resolve_checkpoint
from vae_dist.run.data import check_data, data_of
from vae_dist.run.load import load_run
from vae_dist.run.trained import Run


def read_splits(data: DataFolder) -> dict[str, Images]:
    """All training images, val among them, in the order of the source; and the test images."""
    parts = [data.arrays(name) for name in ("train", "val") if name in data.manifest.splits]
    images, labels, index = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("images", "labels", "index")
    )
    order = np.argsort(index, kind="stable")
    if not len(images):
        raise UserError(f"{data.path}: has no training images")
    if "test" not in data.manifest.splits:
        raise UserError(f"{data.path}: has no split 'test' to score on")
    test = data.arrays("test")
    if not len(test.images):
        raise UserError(f"{data.path}: its split 'test' is empty, so there is nothing to score on")
    highest, classes = max(labels.max(), test.labels.max()), len(data.manifest.classes)
    if highest >= classes:
        raise UserError(
            f"{data.path}: has a label {highest}, its manifest names {classes} classes only;"
            " prepare it again"
        )
    return {
        "train": Images(images[order], labels[order], index[order]),
        "test": Images(test.images, test.labels, test.index),
    }


def check_runs(config: EvaluateConfig, data: DataFolder) -> list[str]:
    """Refuse runs that were not trained on these data; return what has to be said of the others.

    Light, so that it comes before any work. A run that cannot be read is passed over: it is
    listed as failed when it is encoded.

    Raises
    ------
    UserError
        If a run was trained on another split or on other images, unless allowed.
    """
    warnings = []
    for path in config.runs:
        trained_on: dict[str, Any] = {}  # a checkpoint of the 2018 program says nothing
        if not path.is_file():
            try:
                trained_on = data_of(resolve_checkpoint(path, config.which))
            except UserError:
                continue
        warnings.append(check_data(str(path), trained_on, data, allow=config.allow_other_data))
    return [warning for warning in warnings if warning]


Encoded = tuple[RunInfo, Run, dict[str, np.ndarray]]


def encode_runs(
    config: EvaluateConfig,
    splits: dict[str, Images],
    data: DataFolder,
    cache: Cache,
    stages: Stages,
    world: World,
    device: str,
    wait: Callable[[], None],
) -> tuple[list[Encoded], list[Failure]]:
    """Latents of each run; the processes share the work, the first one gets the result.

    A run that fails on any process is left out and listed; the others go on.
    """
    encoded: list[Encoded] = []
    failed: list[Failure] = []
    names: set[str] = set()
    # Latents of the CPU and of a GPU differ in the last digits; those of two GPUs do not: the
    # ranks, each with a device of its own, must name their parts alike.
    kind = torch.device(device).type
    for number, path in enumerate(config.runs):
        run, complaint, key, latents = None, None, "", None
        try:
            run = load_run(path, device, config.which)
            settings = [config.seed, config.nll_samples, config.nll_images]
            key = Cache.key("latents", run.content_hash, data.manifest.fingerprint, *settings, kind)
            latents = cache.arrays("latents", key, _shapes(run, splits))
        except Exception as error:
            complaint = _complaint(error)
        wait()  # the same answer from the cache on every process, before anyone adds to it
        parts = [
            cache.folder / f".part-{number}-{key}-{rank}-{world.size}.npz"
            for rank in range(world.size)
        ]
        kept = latents is not None
        with stages.stage("encode", str(path), "cache" if kept else device) as record:
            if run is not None and latents is None:
                try:
                    part = encode_part(
                        run,
                        splits,
                        world,
                        seed=config.seed,
                        nll_samples=config.nll_samples,
                        nll_images=config.nll_images,
                    )
                    write_arrays(parts[world.rank], part)
                except Exception as error:
                    complaint = _complaint(error)
            wait()
            if world.rank == 0 and complaint is None and run is not None and latents is None:
                try:
                    latents = join_parts([read_arrays(part) for part in parts])
                    for name, shape in _shapes(run, splits).items():
                        check_array(latents.get(name), shape, f"{path}: {name} of its latents")
                except Exception as error:
                    complaint = _complaint(error)
            record.note = complaint
        if latents is not None and not kept:
            latents |= cost_arrays(record)
            try:
                cache.keep_arrays("latents", key, latents)
            except UserError as error:  # raised, it would leave the other processes waiting
                complaint = _complaint(error)
        wait()
        if run is not None:
            parts[world.rank].unlink(missing_ok=True)
        if world.rank:
            continue
        if complaint is not None or run is None or latents is None:
            failed.append(Failure(run=str(path), error=complaint or "not encoded"))
            stages.tell(f"{path}: left out: {complaint}")
            continue
        name = _unique(file_name(run.name), names)
        info = RunInfo(
            name=name,
            path=str(path),
            content_hash=run.content_hash,
            step=run.step,
            latent_size=int(latents["train/mu"].shape[1]),
            **describe_run(run),
        )
        encoded.append((info, run, latents))
    return encoded, failed


def _shapes(run: Run, splits: dict[str, Images]) -> dict[str, Shape]:
    """What latents must look like."""
    size = run.objective.model.latent_size
    return {
        f"{split}/{name}": (len(held.images), size)
        for split, held in splits.items()
        for name in ("mu", "logvar")
    }


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}-{number}", number + 1
    taken.add(candidate)
    return candidate


def _complaint(error: BaseException) -> str:
    """One line; for what is not the user's doing, with the place in the code."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, UserError):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"
