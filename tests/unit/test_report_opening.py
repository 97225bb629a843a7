"""The sentences that open a report, over made-up lines of a leaderboard."""

import pytest

from evaluation.report.columns import BEST
from evaluation.report.opening import few_images, opening
from evaluation.report.tables import Cell, _mark_best
from evaluation.results.leaderboard import fit_seconds, leaderboard
from evaluation.results.records import Embedding, Results, Row, RunInfo
from evaluation.training import training_seconds


def line(method, accuracy, half=0.002, repeats=5, trustworthiness=None):
    known = accuracy is not None and half is not None
    return {
        "title": f"{method.upper()} 10",
        "method": method,
        "knn_test_accuracy": accuracy,
        "ci_low": accuracy - half if known else None,
        "ci_high": accuracy + half if known else None,
        "repeats": repeats,
        "trustworthiness": trustworthiness,
    }


def said(*lines, test_images=10_000):
    found = opening(lines, test_images=test_images, labels=500)
    assert len(found) == 3
    assert all(sentence.endswith(".") for sentence in found)
    return found


def test_a_clear_lead_is_called_one():
    first, ahead, parting = said(line("vae", 0.85), line("vae", 0.849), line("pca", 0.80))
    assert first == (
        "VAE 10 leads: KNN with 500 labelled images a class names the class of 85.0 % of the "
        "10,000 test images rightly."
    )
    assert ahead.startswith("It is 5.0 percentage points ahead of PCA 10, the best embedding of an")
    assert "84.8 to 85.2 % and 79.8 to 80.2 %" in parting
    assert "which images were labelled does not explain the lead" in parting


def test_intervals_that_overlap_may_explain_the_lead():
    assert said(line("vae", 0.851), line("pca", 0.848))[2].endswith(
        "overlap: which images were labelled may explain the lead."
    )


def test_a_tiny_test_set_takes_a_lead_over_labels_back():
    """Every sample of labels is scored on the same few images."""
    parting = said(line("umap", 0.98, 0.0), line("pca", 0.964), test_images=360)[2]
    assert "those over 360 test images do: which images were tested may explain" in parting


def test_one_sample_speaks_of_test_images_or_of_no_interval():
    wilson = [line("vae", 0.9, 0.01, repeats=1), line("pca", 0.7, 0.02, repeats=1)]
    assert said(*wilson)[2].endswith("which images were tested does not explain the lead.")
    none = [line("vae", 0.9, None, repeats=1), line("pca", 0.7, None, repeats=1)]
    assert said(*none)[2].startswith("There is no interval")


def test_one_method_is_compared_with_its_next_and_one_embedding_with_none():
    assert "VAE 10, the next embedding" in said(line("vae", 0.9), line("vae", 0.8))[1]
    first, ahead, last = said(line("vae", 0.9))
    assert "is the only embedding" in first
    assert "no other embedding" in ahead
    assert "89.8 to 90.2 %" in last


def test_the_same_accuracy_is_no_lead():
    first, ahead, _ = said(line("vae", 0.9), line("pca", 0.9))
    assert "shares the first place" in first
    assert ahead == "PCA 10, the best embedding of another method, has the same accuracy."


def test_without_labels_neighbourhoods_decide():
    lines = [line("pca", None, trustworthiness=0.8), line("vae", None, trustworthiness=0.95)]
    first, ahead, last = said(*lines)
    assert "VAE 10 keeps neighbours best" in first
    assert ahead == "It is 0.1500 ahead of PCA 10."
    assert "without an interval" in last
    assert "neither" in said(line("pca", None))[0]


@pytest.mark.parametrize(
    ("count", "part"), [(360, "one percent is 3.6 images"), (40, "one image is 2.5 %")]
)
def test_a_tiny_test_set_is_warned_of(count, part):
    assert part in few_images(count)
    assert few_images(10_000) == ""


def test_the_best_of_a_column_is_marked_by_its_direction():
    rows = [
        [Cell("a", 1.0), Cell("b", 1.0)],
        [Cell("c", 2.0), Cell("–")],
        [Cell("d", 2.0), Cell("–")],
    ]
    up = [[cell.best for cell in row] for row in _mark_best([*map(list, rows)], ["ssim", "ssim"])]
    assert up == [[False, False], [True, False], [True, False]]  # one value is no best
    down = _mark_best([*map(list, rows)], ["mse", "gap"])
    assert [row[0].best for row in down] == [True, False, False]
    assert "gap" not in BEST


def test_fitting_has_the_training_of_the_vae_and_of_all_parts_in_it():
    results = Results(
        dataset="d", data_fingerprint="f", image_shape=[1, 2, 2], classes=[], counts={"test": 2},
        protocol="quick", seed=0, backend={}, versions={},
        runs=[RunInfo(name="r", path="r", content_hash="h", step=9, latent_size=2, training_seconds=60.0)],
        embeddings=[
            Embedding(id="pca-2", method="pca", dim=2, title="PCA 2", fit_seconds=1.0),
            Embedding(id="vae-2-r", method="vae", dim=2, title="VAE", run="r", fit_seconds=0.0),
            Embedding(
                id="concat-4-r", method="concat", dim=4, title="all", run="r", fit_seconds=0.5,
                parameters={"parts": ["pca-2", "vae-2-r"]},
            ),
            Embedding(
                id="old", method="concat", dim=4, title="old", fit_seconds=0.5,
                parameters={"parts": ["umap-2"]},
            ),
        ],
        rows=[Row(dataset="d", method="pca", dim=2, metric="elbo", value=None)],
    )  # fmt: skip
    found = [fit_seconds(results, item) for item in results.embeddings]
    assert found == [1.0, 60.0, 61.5, None]
    assert [one["fit_seconds"] for one in leaderboard(results)] == found


def test_seconds_of_training_follow_from_the_rate_that_was_logged():
    records = [
        {"split": "train", "step": 10, "images_per_second": 100.0},
        {"split": "val", "step": 10, "images_per_second": 1.0},
        {"split": "train", "step": 20, "images_per_second": 200.0},
    ]
    assert training_seconds(records, 20, 50) == pytest.approx(10 * 50 / 100 + 10 * 50 / 200)
    assert training_seconds(records, 15, 50) == pytest.approx(5 + 1.25)
    assert training_seconds(records, 24, 50) == pytest.approx(7.5 + 1)  # the tail at the last rate
    assert training_seconds([], 20, 50) is None
    assert training_seconds(records, 20, None) is None
