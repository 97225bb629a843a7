"""MIG and DCI tell an ideal representation from a rotated one and from chance."""

import numpy as np

from evaluation.measures.disentanglement import dci, disentanglement, mutual_information_gap
from evaluation.results.blanks import DISENTANGLEMENT

FACTORS = np.stack(np.meshgrid(range(4), range(5), range(6), range(5)), -1).reshape(-1, 4)
IDEAL = FACTORS[:, [2, 0, 3, 1]] * np.array([0.1, -3.0, 20.0, 1.0])
RANDOM = np.random.default_rng(0).normal(size=IDEAL.shape)


def test_mig_is_one_for_permuted_scaled_factors_and_less_when_rotated_or_random() -> None:
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    assert np.isclose(mutual_information_gap(IDEAL, FACTORS), 1)
    assert mutual_information_gap(FACTORS @ rotation, FACTORS) < 0.5
    assert mutual_information_gap(RANDOM, FACTORS) < 0.1


def test_dci_is_near_one_for_permuted_scaled_factors_and_low_for_random() -> None:
    assert min(dci(IDEAL, FACTORS)) > 0.9
    chance = dci(RANDOM, FACTORS)
    assert max(chance.disentanglement, chance.completeness) < 0.1
    assert chance.informativeness < 0.4


def test_a_rotation_lowers_every_score_of_structure() -> None:
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    ideal, turned = dci(IDEAL, FACTORS), dci(FACTORS @ rotation, FACTORS)
    assert turned.disentanglement < ideal.disentanglement - 0.3
    assert turned.completeness < ideal.completeness - 0.3


def test_constant_codes_score_zero_and_nothing_is_nan() -> None:
    constant = np.ones_like(IDEAL)
    assert mutual_information_gap(constant, FACTORS) == 0
    found = dci(constant, FACTORS)
    assert (found.disentanglement, found.completeness) == (0, 0)
    assert 0 <= found.informativeness < 0.4  # the commonest value


def test_rows_name_the_factors_that_vary_or_say_why_there_is_no_figure() -> None:
    names = ["a", "b", "c", "d", "colour"]
    factors = np.column_stack([FACTORS, np.zeros(len(FACTORS), np.int64)])
    rows = list(disentanglement(IDEAL, factors, names, 0))
    assert [row["metric"] for row in rows] == list(DISENTANGLEMENT)
    assert min(row["value"] for row in rows) > 0.9
    assert rows[0]["note"] == "600 test images; factors a, b, c, d"
    for codes, known, why in (
        (IDEAL[:, :1], factors, "one dimension"),
        (IDEAL, factors[:, 3:], "1 of the factors"),
        (IDEAL[:3], factors[:3], "too few"),
    ):
        for row in disentanglement(codes, known, names[-known.shape[1] :], 0):
            assert row["value"] is None
            assert why in row["note"]
