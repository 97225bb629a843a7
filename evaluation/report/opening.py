"""What the report says first, in sentences made from the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evaluation.sampling import wilson

FEW_IMAGES = 1000  # test images: below this the report warns


def opening(board: Sequence[dict[str, Any]], *, test_images: int, labels: int) -> list[str]:
    """Who leads, by how much, and whether the intervals part: three sentences.

    Parameters
    ----------
    board : sequence of dict
        Lines of `evaluation.results.leaderboard.leaderboard`, the best first.
    test_images : int
        Images that the accuracy is a share of.
    labels : int
        Labelled training images of each class that KNN was given.
    """
    lines = [line for line in board if line["knn_test_accuracy"] is not None]
    if lines:
        return _by_accuracy(lines, test_images, labels)
    lines = [line for line in board if line["trustworthiness"] is not None]
    if lines:
        return _by_trustworthiness(sorted(lines, key=lambda line: -line["trustworthiness"]))
    return [
        "No embedding could be compared: neither accuracy nor trustworthiness was measured.",
        "So there is no difference to report.",
        "The reasons stand below the table.",
    ]


def few_images(test_images: int) -> str:
    """A warning of a test set too small for fine differences; empty where it is not."""
    if not 0 < test_images < FEW_IMAGES:
        return ""
    share = test_images / 100
    one = f"one percent is {share:.3g} images" if share > 1 else f"one image is {1 / share:.3g} %"
    return (
        f"The test set has only {test_images:,} images: {one}. Small differences between methods "
        "may be luck."
    )


def rival(lines: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The best line of another method than the first one's, or the second line; None of one."""
    others = [line for line in lines[1:] if line["method"] != lines[0]["method"]]
    return next(iter([*others, *lines[1:]]), None)


def _by_accuracy(lines: Sequence[dict[str, Any]], test_images: int, labels: int) -> list[str]:
    best, other = lines[0], rival(lines)
    value = best["knn_test_accuracy"]
    task = (
        f"KNN with {labels:,} labelled images a class names the class of {_percent(value)} of the "
        f"{test_images:,} test images rightly"
    )
    if other is None:
        return [
            f"{best['title']} is the only embedding that was measured: {task}.",
            "There is no other embedding to compare it with.",
            _alone(best),
        ]
    second = other["knn_test_accuracy"]
    next_one = other["method"] == best["method"]
    kind = "the next embedding" if next_one else "the best embedding of another method"
    if round(value, 4) == round(second, 4):
        leads = "shares the first place"
        ahead = f"{other['title']}, {kind}, has the same accuracy."
    else:
        leads, points = "leads", 100 * (value - second)
        ahead = (
            f"It is {points:.{1 if points >= 0.1 else 2}f} percentage points ahead of "
            f"{other['title']}, {kind} ({_percent(second)})."
        )
    return [f"{best['title']} {leads}: {task}.", ahead, _parting(best, other, test_images)]


def _parting(best: dict[str, Any], other: dict[str, Any], test_images: int) -> str:
    """Whether two intervals overlap, and what that means."""
    if None in (best["ci_low"], other["ci_low"]):
        return "There is no interval for both, as there was one sample of labels: this lead may be luck."
    bounds = f"{_bounds(best)} and {_bounds(other)}"
    luck = _luck(best, other)
    if best["ci_low"] <= other["ci_high"]:
        return f"Their 95 % intervals ({bounds}) overlap: {luck} may explain the lead."
    # Repeated samples of labels are all scored on the same test images.
    lowest = wilson(best["knn_test_accuracy"], test_images)[0]
    highest = wilson(other["knn_test_accuracy"], test_images)[1]
    if lowest <= highest:
        return (
            f"Their 95 % intervals over samples of labels ({bounds}) do not overlap, but those over "
            f"{test_images:,} test images do: which images were tested may explain the lead."
        )
    return f"Their 95 % intervals ({bounds}) do not overlap: {luck} does not explain the lead."


def _luck(*lines: dict[str, Any]) -> str:
    if all((line["repeats"] or 1) > 1 for line in lines):
        return "which images were labelled"
    return "which images were tested"


def _alone(line: dict[str, Any]) -> str:
    if line["ci_low"] is None:
        return "There is no interval, as there was one sample of labels."
    return f"Its 95 % interval is {_bounds(line)}: how far {_luck(line)} moves it."


def _by_trustworthiness(lines: Sequence[dict[str, Any]]) -> list[str]:
    best, other = lines[0], rival(lines)
    value = best["trustworthiness"]
    text = (
        f"There are no accuracies; {best['title']} keeps neighbours best, with a trustworthiness of "
        f"{value:.4f} (1 is best)."
    )
    last = "This is one measurement without an interval: a small difference may be luck."
    if other is None:
        return [
            text.replace("keeps neighbours best, with", "is the only embedding, with"),
            "There is no other embedding to compare it with.",
            last,
        ]
    ahead = value - other["trustworthiness"]
    return [text, f"It is {ahead:.4f} ahead of {other['title']}.", last]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _bounds(line: dict[str, Any]) -> str:
    return f"{100 * line['ci_low']:.1f} to {100 * line['ci_high']:.1f} %"
