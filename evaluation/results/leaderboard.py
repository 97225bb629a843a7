"""One line for each embedding, best first."""

from __future__ import annotations

from typing import Any

from evaluation.results.blanks import why_blank
from evaluation.results.records import TEST_FIGURE, Embedding, Results

# What else a leaderboard shows of an embedding.
BOARD = (
    "trustworthiness",
    "linear_probe_accuracy",
    "silhouette",
    "kmeans_nmi",
    "mig",
    "dci_disentanglement",
    "elbo",
    "nll",
    "ssim",
    "psnr",
)


def leaderboard(results: Results) -> list[dict[str, Any]]:
    """One line for each embedding, best test accuracy first.

    ``knn_test_accuracy`` is the best over k of the test figure; without one the lines keep
    their order. ``blank`` gives the reason of every figure that is None.
    """
    lines: list[dict[str, Any]] = []
    for item in results.embeddings:
        own = [row for row in results.rows if row.embedding == item.id]
        line: dict[str, Any] = {
            "embedding": item.id,
            "title": item.title,
            "method": item.method,
            "dim": item.dim,
            "run": item.run,
        }
        tests = [
            row
            for row in own
            if (row.metric, row.weights) == (TEST_FIGURE["metric"], TEST_FIGURE["weights"])
            and row.value is not None
        ]
        best = max(tests, key=lambda row: row.value or 0.0, default=None)
        line["knn_test_accuracy"] = best.value if best else None
        line["k"] = best.k if best else None
        line["ci_low"] = best.ci_low if best else None
        line["ci_high"] = best.ci_high if best else None
        line["repeats"] = best.repeats if best else None
        decoder = [
            row
            for row in results.rows
            if (row.method, row.dim, row.run) == (item.method, item.dim, item.run)
        ]
        for metric in BOARD:
            found = [
                row.value
                for row in (decoder if metric in ("elbo", "nll", "ssim", "psnr") else own)
                if row.metric == metric and row.value is not None
            ]
            line[metric] = found[0] if found else None
        line["seconds"] = item.seconds
        line["fit_seconds"] = fit_seconds(results, item)
        line["transform_seconds"] = item.transform_seconds
        line["backend"] = item.backend
        line["blank"] = {
            metric: why_blank(results, metric, item.method, own)
            for metric in ("knn_test_accuracy", *BOARD)
            if line[metric] is None
        }
        if best and best.ci_low is None:
            line["blank"]["interval"] = "one sample of labels; evaluate again for its interval"
        lines.append(line)
    return sorted(lines, key=lambda line: -(line["knn_test_accuracy"] or 0.0))


def fit_seconds(results: Results, item: Embedding) -> float | None:
    """Seconds to fit an embedding and all that it is made of, the training of a VAE included."""
    parts = item.parameters.get("parts")
    if not isinstance(parts, list):
        return _total([item.fit_seconds, *_training(results, item)])
    found = {one.id: one for one in results.embeddings}
    needed = [item.fit_seconds]
    for part in parts:
        one = found.get(str(part))
        needed += [one.fit_seconds, *_training(results, one)] if one else [None]
    return _total(needed)


def _training(results: Results, item: Embedding) -> list[float | None]:
    return [run.training_seconds for run in results.runs if run.name == item.run]


def _total(seconds: list[float | None]) -> float | None:
    """The sum; None where one is not known."""
    known = [one for one in seconds if one is not None]
    return sum(known) if len(known) == len(seconds) else None
