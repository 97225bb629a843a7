"""Figures by label where labels are few, strange or missing: measured rightly, or a reason."""

import numpy as np
import pytest

from evaluation.backends.choose import Backends
from evaluation.measures.measure import BY_LABEL, Measure
from evaluation.measures.protocol import Points, known_labels, make_protocol
from evaluation.results.blanks import blanks
from evaluation.results.leaderboard import leaderboard
from evaluation.sampling import interval
from tests.unit.test_measures import results


def measured(train, test, protocol="full"):
    """Every figure of points that lie where their labels say."""
    train, test = np.asarray(train), np.asarray(test)
    rng = np.random.default_rng(0)
    rows, shown = (
        (10 * labels[:, None] + rng.normal(size=(len(labels), 2))).astype(np.float32)
        for labels in (train, test)
    )
    points = Points(rows, shown, train, test, int(max(train.max(), test.max())) + 1)
    measure = Measure(make_protocol(protocol, 0, 2), Backends("cpu"), shown, np.arange(len(test)))
    return measure, points, list(measure.figures(points))


def values(figures, metric):
    return [one["value"] for one in figures if one["metric"] == metric]


@pytest.mark.parametrize(
    ("train", "test"),
    [
        (np.repeat([1, 2, 3], 20), np.repeat([1, 2, 3], 4)),  # no class 0
        (np.repeat([0, 1, -1], 20), np.repeat([0, 1, -1], 4)),  # some without a label
        (np.repeat([0, 1], 20), np.repeat([0, 1, 7], 4)),  # a class without training images
        (np.repeat([0, 1], [20, 1]), np.repeat([0, 1], 4)),  # one training image of a class
    ],
)
def test_what_can_be_scored_is_scored(train, test):
    """Points of a class lie together: KNN with one neighbour is always right."""
    measure, points, figures = measured(train, test)
    assert values(figures, "knn_test_accuracy")[0] == 1
    assert all(one["note"] for one in figures if one["value"] is None)
    assert all(0 <= v <= 1 for v in values(figures, "knn_all_test_accuracy") if v is not None)
    matrix, predicted = measure.confusion(points, 1)
    known = np.isin(test, train[train >= 0])
    assert np.trace(matrix) == matrix.sum() == known.sum()
    assert np.array_equal(predicted[known], test[known])


def test_what_is_not_used_is_said():
    known = known_labels(np.array([0, 0, 1, -1]), np.array([0, 1, 5, 5, -1]))
    assert known.note == (
        "not used: 1 training and 1 test images without a label; "
        "2 test images of classes without training images (5)"
    )
    _, _, figures = measured([0] * 9 + [1] * 9 + [-1], [0, 1, 5, 5, -1, 0, 1])
    noted = [one for one in figures if one["metric"] == "knn_test_accuracy"]
    assert all(
        "2 test images of classes without training images (5)" in one["note"] for one in noted
    )


@pytest.mark.parametrize(
    ("train", "test", "reason"),
    [
        ([-1] * 9, [0] * 5, "no training image has a label"),
        ([3] * 9, [3] * 5, "all labelled training images are of one class"),
        ([0, 1] * 9, [4] * 5, "no test image has a label that training images have"),
    ],
)
def test_where_nothing_can_be_scored_every_figure_has_the_reason(train, test, reason):
    _, _, figures = measured(train, test)
    for metric in BY_LABEL:
        assert [(f["value"], f["note"]) for f in figures if f["metric"] == metric] == [
            (None, reason)
        ]


def test_every_cell_that_is_missing_has_its_reason():
    """18 labels: 25 and 50 neighbours are too many, and so is each cell of the grid."""
    _, _, figures = measured(np.repeat([0, 1], 9), np.repeat([0, 1], 2), "quick")
    by_k = {
        f["k"]: f["note"] for f in figures if f["metric"] == "knn_test_accuracy" and not f["value"]
    }
    assert by_k[25] == "18 labelled training images are fewer than 25 neighbours"
    grid = [f for f in figures if f["metric"] == "knn_cv_accuracy"]
    assert [f["labels_per_class"] for f in grid] == [50, 100, 500, 1000, 3000]
    assert {f["note"] for f in grid} == {"the rarest class has 9 labelled training images"}
    assert values(figures, "trustworthiness") == [None]  # four test images


def test_intervals_stay_where_the_figure_can_be():
    free = interval([0.9, 1.0])
    assert free["ci_high"] > 1
    assert interval([0.9, 1.0], "knn_test_accuracy")["ci_high"] == 1
    assert interval([0.0, 0.1], "knn_test_accuracy")["ci_low"] == 0
    kept = interval([0.7, 0.72], "knn_test_accuracy")
    assert kept == interval([0.7, 0.72])  # nothing to cut: Student's


def test_blanks_of_the_leaderboard_have_their_reasons():
    board = leaderboard(results())
    assert board[0]["blank"]["psnr"] == "measured where a VAE has as many dimensions"
    lines = blanks(board, ("nll", "interval"))
    assert "nll of all: only a VAE has it" in lines
    assert any(line.startswith("interval of PCA 3: one sample") for line in lines)
