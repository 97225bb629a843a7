"""MIG and DCI tell an ideal representation from a rotated one and from chance."""

import numpy as np

from evaluation.measures.disentanglement import dci, mutual_information_gap

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
