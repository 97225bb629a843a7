"""Figures that are missing, each with its reason."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evaluation.results.records import Results, Row

DISTANCES = ("frechet_samples", "kernel_samples", "frechet_recon", "kernel_recon")
_OF_VAES = (
    "recon",
    "recon_mean",
    "kl",
    "elbo",
    "nll",
    "active_units",
    "aggregate_distance",
    "interpolation_length",
    "interpolation_jump",
    *DISTANCES,
)
DISENTANGLEMENT = ("mig", "dci_disentanglement", "dci_completeness", "dci_informativeness")
_OF_DECODERS = ("ssim", "ssim11", "psnr", "mse")
_OF_FULL = (
    "continuity",
    "knn_all_test_accuracy",
    "knn_log_loss",
    "knn_macro_auc",
    "linear_probe_accuracy",
    "silhouette",
    "kmeans_nmi",
    "kmeans_ari",
)


def blank(metric: str, reason: str, **settings: Any) -> dict[str, Any]:
    """Fields of the `Row` of a figure that could not be measured."""
    return {"metric": metric, "value": None, "note": reason, **settings}


def why_blank(results: Results, metric: str, method: str, rows: Iterable[Row]) -> str:
    """Why a table has no value of a metric for an embedding.

    Parameters
    ----------
    results : Results
    metric, method : str
    rows : iterable of Row
        The embedding's own rows.
    """
    noted = [row.note for row in rows if row.metric == metric and row.value is None and row.note]
    if noted:
        return noted[0]
    if metric in _OF_VAES and method != "vae":
        return "only a VAE has it"
    if metric == "nll" and not results.settings.get("nll_samples"):
        return "--nll-samples is 0"
    if metric in DISTANCES:
        return "--fid-features was not given"
    if metric in _OF_DECODERS and method == "pca":
        return "measured where a VAE has as many dimensions"
    if metric in _OF_DECODERS and method != "vae":
        return "has no decoder"
    if metric == "explained_variance":
        return "only PCA has it"
    if metric in ("gap", *DISENTANGLEMENT) and method == "raw":
        return "measured of embeddings"
    if metric in DISENTANGLEMENT:
        return "the factors of these images are not known"
    if metric in _OF_FULL and results.protocol != "full":
        return "measured with --protocol full"
    return "not measured"


def blanks(board: list[dict[str, Any]], shown: Collection[str]) -> list[str]:
    """The reasons of a leaderboard's blanks in the columns that are shown, one line a reason."""
    found: dict[str, dict[str, list[str]]] = {}
    for line in board:
        for metric in line["blank"].keys() & set(shown):
            reason = line["blank"][metric]
            found.setdefault(reason, {}).setdefault(metric, []).append(line["title"])
    lines = []
    for reason, by_metric in found.items():
        groups: dict[str, list[str]] = {}
        for metric, titles in sorted(by_metric.items()):
            of = "all" if len(titles) == len(board) else ", ".join(titles)
            groups.setdefault(of, []).append(metric)
        lines += [f"{', '.join(metrics)} of {of}: {reason}" for of, metrics in groups.items()]
    return lines


def not_made(results: Results) -> list[str]:
    """The embeddings that were asked for and could not be made, one line each."""
    return [f"{one.embedding}: not made: {one.reason}" for one in results.not_made]
