"""Runs and images: what an evaluation reads, and the latents of each run."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder
from evaluation.cache import Cache, Shape, check_array
from evaluation.encode import describe_run, encode_part, join_parts
from evaluation.files import read_arrays, write_arrays
from evaluation.images import Images
from evaluation.items import file_name
from evaluation.results.records import Failure, RunInfo
from evaluation.settings import EvaluateConfig
from evaluation.stages import cost_arrays
from evaluation.state import Evaluation
from vae_dist.run.data import check_data, data_of
from vae_dist.run.load import load_run
from vae_dist.run.trained import Run
from vae_dist.run.which_checkpoint import resolve_checkpoint


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


def encode_runs(evaluation: Evaluation) -> tuple[list[Encoded], list[Failure]]:
    """Latents of each run; the processes share the work, the first one gets the result.

    A run that fails on any process is skipped and listed; the others go on.
    """
    encoded: list[Encoded] = []
    failed: list[Failure] = []
    names: set[str] = set()
    for number, path in enumerate(evaluation.config.runs):
        run, latents, complaint = _encode_run(evaluation, number, path)
        if not evaluation.leads:
            continue
        if complaint is not None or run is None or latents is None:
            complaint = (complaint or "not encoded").removeprefix(f"{path}: ")
            failed.append(Failure(run=str(path), error=complaint))
            evaluation.stages.tell(f"{path}: skipped: {complaint}")
            continue
        info = RunInfo(
            name=_unique(file_name(run.name), names),
            path=str(path),
            content_hash=run.content_hash,
            step=run.step,
            latent_size=run.latent_size,
            **describe_run(run, path),
        )
        encoded.append((info, run, latents))
    return encoded, failed


def _encode_run(
    evaluation: Evaluation, number: int, path: Path
) -> tuple[Run | None, dict[str, np.ndarray] | None, str | None]:
    """The collective part: every process writes its part of the latents, the first joins them.

    What one process meets is not raised before all know of it: the others would wait for ever. A
    full disk would meet every run, and so ends the evaluation on all of them.

    Returns
    -------
    run, latents, complaint
        Latents on the first process, or where they were in the cache.
    """
    config, cache, world = evaluation.config, evaluation.cache, evaluation.world
    run, complaint, key, latents, disk = None, None, "", None, ""
    # Latents of the CPU and of a GPU differ in the last digits; those of two GPUs do not: the
    # ranks, each with a device of its own, must name their parts alike.
    kind = torch.device(evaluation.device).type
    settings = {
        "seed": config.seed,
        "nll_samples": config.nll_samples,
        "nll_images": config.nll_images,
    }
    try:
        run = load_run(path, evaluation.device, config.which, allow_code=config.allow_code)
        if run.averaged and evaluation.leads:
            evaluation.stages.tell(f"{path}: {run} are evaluated, as it was trained with --ema")
        facts = [run.content_hash, evaluation.data.manifest.fingerprint, settings, kind]
        key = Cache.key("latents", *facts)
        latents = cache.arrays("latents", key, _shapes(run, evaluation.splits))
    except Exception as error:
        complaint = _complaint(error)
    evaluation.wait()  # the same answer from the cache on every process, before anyone adds to it
    parts = [
        cache.folder / f".part-{number}-{key}-{rank}-{world.size}.npz" for rank in range(world.size)
    ]
    kept = latents is not None
    where = "cache" if kept else evaluation.device
    with evaluation.stages.stage("encode", str(path), where) as record:
        if run is not None and latents is None:
            try:
                part = encode_part(run, evaluation.splits, world, **settings)
                write_arrays(parts[world.rank], part)
            except Exception as error:
                complaint = _complaint(error)
                disk = complaint if isinstance(error.__cause__, OSError) else ""
        evaluation.wait()
        evaluation.end_if(disk)
        if evaluation.leads and complaint is None and run is not None and latents is None:
            try:
                latents = join_parts([read_arrays(part) for part in parts])
                for name, shape in _shapes(run, evaluation.splits).items():
                    check_array(latents.get(name), shape, f"{path}: {name} of its latents")
            except Exception as error:
                complaint = _complaint(error)
        record.note = complaint or f"in parts, by {world.size} processes"
    if latents is not None and not kept:
        latents |= cost_arrays(record)
        try:
            cache.keep_arrays("latents", key, latents)
        except UserError as error:
            disk = str(error)
    evaluation.wait()
    if run is not None:
        parts[world.rank].unlink(missing_ok=True)
    evaluation.end_if(disk)
    return run, latents, complaint


def _shapes(run: Run, splits: dict[str, Images]) -> dict[str, Shape]:
    """What latents must look like."""
    train, test = len(splits["train"]), len(splits["test"])
    return {
        "train/mu": (train, run.latent_size),
        "test/mu": (test, run.latent_size),
        "test/logvar": (test, run.latent_size),
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
