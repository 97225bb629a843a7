"""The comparison, whole: latents of the runs, embeddings, figures, pictures, report."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.folder import open_data
from data_pipeline.order import World
from data_pipeline.redact import scrubbed
from evaluation.backends.choose import Backends
from evaluation.cache import Cache
from evaluation.comparison import Comparison
from evaluation.results.files import write_results
from evaluation.results.records import Results
from evaluation.runs import check_runs, encode_runs, read_splits
from evaluation.settings import EvaluateConfig
from evaluation.stages import Stages

__all__ = ["EvaluateConfig", "evaluate"]


def evaluate(
    config: EvaluateConfig,
    *,
    world: World | None = None,
    device: str = "cpu",
    wait: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Results | None:
    """Evaluate runs and write the evaluation folder.

    Parameters
    ----------
    config : EvaluateConfig
    world : World, optional
        Processes that encode; all must share the cache folder.
    device : str
        Where models run.
    wait : callable
        Returns when all processes have called it.
    tell : callable
        Given one line at a time on what is done.

    Returns
    -------
    Results or None
        None on processes other than the first.

    Raises
    ------
    ValueError
        If the data or the settings are wrong. A run that cannot be evaluated raises nothing:
        it is listed in ``Results.failed``.
    """
    world = world or World()
    started = time.perf_counter()
    if config.data is None:
        raise UserError("--data: give a data folder that vae-dist prepare wrote")
    data = open_data(config.data)
    warnings = check_runs(config, data)
    for warning in warnings:
        tell(f"warning: {warning}")
    out = config.out or Path("eval") / data.manifest.name
    keep = config.cache or out.parent / ".cache"
    splits = read_splits(data)
    # Before anything is encoded: a GPU that was asked for and is missing should cost no time,
    # and should end every process, so that none waits for the first one.
    here = world.rank == 0 or config.backend == "cuml"
    backends = Backends(config.backend if here else "cpu", tell=tell)
    # Before anything is computed, and on every process.
    for flag, folder in (("--out", out), ("--cache", keep)):
        with files_of_user(f"{flag} {folder}: cannot be written", "name another folder"):
            folder.mkdir(parents=True, exist_ok=True)
    cache = Cache(keep, fresh=config.fresh, tell=tell)
    stages = backends.stages() if world.rank == 0 else Stages()
    encoded, failed = encode_runs(config, splits, data, cache, stages, world, device, wait)
    if world.rank:
        return None
    if backends.asked == "auto" and backends.used == "cpu":
        tell(f"backend cpu: {backends.reason}")
    results = Results(
        dataset=data.manifest.name,
        data_fingerprint=data.manifest.fingerprint,
        image_shape=list(data.manifest.image_shape),
        classes=list(data.manifest.classes),
        counts={name: len(split.images) for name, split in splits.items()},
        protocol=config.protocol,
        seed=config.seed,
        backend=backends.describe(),
        versions=backends.versions(),
        settings=scrubbed(_plain(dataclasses.asdict(config))),
        runs=[info for info, _, _ in encoded],
        failed=failed,
    )
    Comparison(config, results, splits, backends, stages, cache, out).carry_out(encoded)
    results.backend = backends.describe()
    results.stages = stages.done
    results.seconds = time.perf_counter() - started
    write_results(out, results)
    if config.report:
        from evaluation.figures import write_figures
        from evaluation.report import write_report

        with stages.stage("report"):
            write_figures(out)
            write_report(out)
        results.seconds = time.perf_counter() - started
        write_results(out, results)
    return results


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
