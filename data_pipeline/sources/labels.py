"""Labels of any source as numbers, and what is odd about them, said."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.sources.names import shown

MOST_CLASSES = 100_000
LONGEST_NAME = 1_000
_NAMED = 5


def numbered(
    labels: Mapping[str, np.ndarray], names: Sequence[str] | None, where: str
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Labels as positions in a list of classes.

    Parameters
    ----------
    labels : dict of str to numpy.ndarray
        By part: whole numbers, or strings; -1 or an empty string where there is none.
    names : sequence of str, optional
        Names of the classes, in the order of their numbers.
    where : str
        For messages.

    Returns
    -------
    dict of str to numpy.ndarray, list of str
        int64 labels by part, and the classes. Numbers without names are their own names;
        those that no image has are not classes.

    Raises
    ------
    UserError
        If numbers and strings are mixed, or if there are more classes than anyone has.
    """
    words = {part: values.dtype.kind in "US" for part, values in labels.items()}
    absent = [part for part, values in labels.items() if not words[part] and (values == -1).all()]
    labels = {
        part: np.full(len(values), "") if any(words.values()) and part in absent else values
        for part, values in labels.items()
    }
    if len({values.dtype.kind in "US" for values in labels.values()}) > 1:
        raise UserError(f"{where}: some labels are strings, others numbers")
    if any(words.values()):
        labels = {part: np.array([_word(v) for v in values]) for part, values in labels.items()}
    elif names is not None:
        count = int(max(values.max(initial=-1) for values in labels.values())) + 1
        if len(names) < count:
            raise UserError(f"{where}: {len(names)} classes are named, labels go up to {count - 1}")
        return dict(labels), [_word(name) for name in names]
    together = np.concatenate(list(labels.values()))
    missing = "" if together.dtype.kind == "U" else -1
    found = np.unique(together[together != missing])
    if len(found) > MOST_CLASSES:
        raise UserError(f"{where}: {len(found):,} different labels; they are no classes")
    for part, values in labels.items():
        positions = np.searchsorted(found, values).astype(np.int64)
        labels[part] = np.where(values == missing, -1, positions)
    return dict(labels), [str(name) for name in found]


def sorted_classes(names: Collection[str]) -> list[str]:
    """Names of classes in their order: by number where all are numbers, else by name."""
    numbers = all(name.isascii() and name.isdecimal() for name in names)
    return sorted(names, key=lambda name: (int(name), name) if numbers else (0, name))


def _word(value: object) -> str:
    text = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return shown(unicodedata.normalize("NFC", text))[:LONGEST_NAME]


def remarks(splits: Mapping[str, Arrays], classes: Sequence[str]) -> Iterator[str]:
    """Lines on labels that are missing and classes that are empty, untrained, or look alike."""
    labels = {name: np.asarray(part.labels) for name, part in splits.items()}
    together = np.concatenate(list(labels.values()))
    without = int((together < 0).sum())
    if without == len(together):
        yield (
            "warning: no image has a label: the images can be trained on, but a report has no "
            "accuracy of KNN or of a probe"
        )
        return
    if without:
        yield f"warning: {without:,} of {len(together):,} images have no label"
    trained = set(labels["train"].tolist())
    tested = set(labels["test"].tolist()) if len(labels.get("test", ())) else trained
    untrained = [classes[label] for label in sorted(tested - trained - {-1})]
    if untrained:
        yield (
            f"warning: only the test set has {_list(untrained)}: no classifier that learns from "
            "train can name them"
        )
    untested = [classes[label] for label in sorted(trained - tested - {-1})]
    if untested:
        yield f"no image of the test set is of {_list(untested)}"
    empty = [name for label, name in enumerate(classes) if label not in trained | tested]
    if empty:
        yield f"warning: no image is of {_list(empty)}"
    alike: dict[str, list[str]] = {}
    for name in classes:
        alike.setdefault(name.strip().casefold(), []).append(name)
    for names in alike.values():
        if len(names) > 1:
            yield f"warning: {_list([repr(name) for name in names])} are kept as different classes"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    word = "class" if len(names) == 1 else "classes"
    return f"{word} {', '.join(names[:_NAMED])}{more}"
