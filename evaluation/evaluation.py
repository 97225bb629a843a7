"""The comparison, whole: latents of the runs, embeddings, figures, pictures, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from data_pipeline.order import World
from evaluation.comparison import Comparison
from evaluation.features import open_features
from evaluation.results.files import write_results
from evaluation.results.records import Results
from evaluation.runs import check_runs, encode_runs
from evaluation.settings import EvaluateConfig
from evaluation.state import open_data_of, open_evaluation

__all__ = ["EvaluateConfig", "evaluate"]


def evaluate(
    config: EvaluateConfig,
    *,
    world: World | None = None,
    device: str = "cpu",
    wait: Callable[[], None] = lambda: None,
    agree: Callable[[str], str] = lambda fault: fault,
    tell: Callable[[str], None] = lambda line: None,
) -> Results | None:
    """Evaluate runs and write the evaluation folder.

    Parameters
    ----------
    config : EvaluateConfig
    world : World, optional
        Processes that share the work; all must share the output and the cache folder.
    device : str
        Where models run.
    wait : callable
        Returns when all processes have called it.
    agree : callable
        Given a fault or nothing by every process; gives all of them the first fault.
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
    started = time.perf_counter()
    data = open_data_of(config)
    warnings = check_runs(config, data)
    for warning in warnings:
        tell(f"warning: {warning}")
    evaluation = open_evaluation(
        config,
        data,
        world=world or World(),
        device=device,
        wait=wait,
        agree=agree,
        tell=tell,
    )
    features = open_features(config, data.manifest.image_shape, device)
    results = evaluation.results()
    results.warnings = warnings
    evaluation.stages.plan(_expected_stages(config))
    encoded, results.failed = encode_runs(evaluation)
    results.runs = [info for info, _, _ in encoded]
    Comparison(evaluation, results, features).carry_out(encoded)
    if not evaluation.leads:
        return None
    results.backend = evaluation.backends.describe()
    results.stages = evaluation.stages.done
    results.seconds = time.perf_counter() - started
    write_results(evaluation.out, results)
    if config.report:
        with evaluation.stages.stage("report"):
            _report(evaluation.out)
        results.seconds = time.perf_counter() - started
        write_results(evaluation.out, results)
    return results


def _expected_stages(config: EvaluateConfig) -> int:
    """Stages if every run can be read and nothing is in the cache."""
    methods, runs, dims = set(config.methods), len(config.runs), len(config.dims)
    single = len(methods & {"vae", "vae_white", "concat"})  # one embedding a run
    embeddings = ("raw" in methods) + dims * len(methods & {"pca", "umap"})
    embeddings += runs * (single + dims * ("vae_umap" in methods))
    embeddings += runs > 1 and "ensemble" in methods
    making = bool(methods & {"pca", "concat"}) + 2 * bool(methods & {"umap", "concat"})
    making += runs * (len(methods & {"vae_white", "concat"}) + 2 * ("vae_umap" in methods))
    making += runs > 1 and "ensemble" in methods
    of_runs = 2 * runs  # encode and pictures; PCA beside them is of the fit that serves all
    of_runs += runs * (config.fid_features is not None)
    return of_runs + making + 2 * embeddings + config.report


def _report(out: Path) -> None:
    from evaluation.figures import write_figures
    from evaluation.report import write_report

    write_figures(out)
    write_report(out)
