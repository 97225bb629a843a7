"""A study: rows of settings, the statements that they test, and targets for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from data_pipeline.checks import AtLeast, OneOf, check_fields
from data_pipeline.errors import UserError
from launch.setting_files import PRESETS, preset_path, read_settings
from launch.sweep.trainings import Training, flags_of

STUDIES = PRESETS / "ablation"
OWN = ("name", "seed", "data", "dataset")
"""Settings of a preset that a study gives itself."""
METHODS = ("pca", "umap")
"""What a statement may compare besides trained rows."""
FIGURES = {
    "ssim": "SSIM of reconstructions",
    "knn": "KNN accuracy (500 labels a class, k = 10)",
    "knn_all": "KNN accuracy (all labels, k = 5)",
    "recon": "reconstruction from a drawn z, nats",
    "kl": "KL, nats",
    "nll": "bound on -log p(x) by importance samples, nats",
}
"""What a statement or record may speak of: figures of the test images."""

PICTURES = (
    *("panels", "neighbours", "reconstructions", "samples", "traversals"),
    *("latents", "parameters", "rate_distortion"),
)
"""What a study's page may show."""


@dataclass(frozen=True, kw_only=True)
class StudyRow:
    """One training, repeated over the seeds.

    Attributes
    ----------
    name : str
    what : str
        In words.
    settings : dict
        What differs from the base; keys are flags of ``vae-dist train``.
    preset : str
        A preset that this row starts from in place of the study's base.
    sets : tuple of str
        Data sets that the row is for; empty: all.
    """

    name: str
    what: str
    settings: dict[str, Any]
    preset: str = ""
    sets: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What is claimed of one or several rows; it holds if it holds for each of them."""

    text: str
    """In its own words' sense."""
    figure: Annotated[str, OneOf(*FIGURES)]
    """A name in `FIGURES`."""
    rows: list[str]
    """Rows of the study, pca or umap."""
    expect: Annotated[str, OneOf("higher", "lower", "alike", "at least", "at most")]
    """What is claimed of the rows: than `against`, or at least or at most `value`."""
    against: str = ""
    value: float | None = None
    margin: Annotated[float, AtLeast(0)] = 0.0
    """alike: up to which difference."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.bound is (self.value is None) or self.bound is bool(self.against):
            raise UserError(
                "at least and at most need a value, and every other expectation needs against"
            )

    @property
    def bound(self) -> bool:
        """Whether the rows are held against `value`, and not against another row."""
        return self.expect in ("at least", "at most")


@dataclass(frozen=True, kw_only=True)
class Record:
    """A target for one row."""

    text: str
    """What is asked for: the size, the figure, on which data."""
    row: str
    """A row of the study, pca or umap."""
    figure: Annotated[str, OneOf(*FIGURES)]
    """A name in `FIGURES`."""
    at_least: float | None = None
    at_most: float | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        if (self.at_least is None) is (self.at_most is None):
            raise UserError("a record needs either at_least or at_most")

    @property
    def statement(self) -> Statement:
        """That the target is reached."""
        return Statement(
            text=self.text,
            figure=self.figure,
            rows=[self.row],
            expect="at least" if self.at_most is None else "at most",
            value=self.at_least if self.at_most is None else self.at_most,
        )


@dataclass(frozen=True, kw_only=True)
class Importance:
    """How the figure nll is measured."""

    nll_samples: Annotated[int, AtLeast(1)] = 5000
    """Importance samples of each image."""
    nll_images: Annotated[int, AtLeast(1)] = 10000
    """The first test images."""

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class Study:
    """What `launch.ablate.reading.read_study` reads."""

    name: str
    title: str
    seeds: list[int]
    fixed: dict[str, Any]
    rows: list[StudyRow]
    statements: list[Statement] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    importance: Importance = field(default_factory=Importance)
    about: str = ""
    """A paragraph under the title."""
    base: dict[str, Any] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    """Names in `PICTURES`, for the page."""

    def rows_on(self, data_name: str) -> list[StudyRow]:
        """The rows that are for a data set."""
        return [row for row in self.rows if not row.sets or data_name in row.sets]

    def rows_with(self, figure: str) -> set[str]:
        """Rows of which a statement or a record has a figure."""
        found = {record.row for record in self.records if record.figure == figure}
        for each in self.statements:
            found |= {*each.rows, each.against} if each.figure == figure else set()
        return found - {""}

    def training(self, row: StudyRow, seed: int, data: str, data_name: str) -> Training:
        """The training of a row with a seed on a data folder."""
        base = preset_settings(row.preset) if row.preset else self.base
        settings = {**base, **self.fixed, **row.settings, "seed": seed, "data": data}
        name = f"{self.name}-{data_name}-{row.name}-seed{seed}"
        return Training(name, {"row": row.name, "seed": seed}, list(flags_of(settings)))


def preset_settings(name: str) -> dict[str, Any]:
    """Settings of a preset that a training of a study can take."""
    found = read_settings(preset_path(name), name)
    return {key.replace("-", "_"): value for key, value in found.items() if key not in OWN}
