"""The Fréchet distance of normal distributions in closed form; the kernel distance by its definition."""

import numpy as np
import pytest

from evaluation.measures.distances import frechet_distance, kernel_distance


def drawn(mean, std, count=20_000, seed=0):
    normal = np.random.default_rng(seed).normal(size=(count, len(mean)))
    white = (normal - normal.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(normal.T))).T
    return white * np.array(std) + np.array(mean)  # its moments are just these


def test_frechet_distance_of_normals_is_the_closed_form() -> None:
    one, other = drawn([0, 1, 2], [1, 2, 3]), drawn([1, 1, 0], [2, 2, 1], seed=1)
    assert frechet_distance(one, other) == pytest.approx(1 + 4 + 1 + 0 + 4)  # |m|² + Σ(s1 - s2)²
    turn = np.linalg.qr(np.random.default_rng(2).normal(size=(3, 3)))[0]
    assert frechet_distance(one @ turn, other @ turn) == pytest.approx(10)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    # Not of the same axes: tr(A + B - 2 (AB)^1/2) with 2x2 matrices, (tr (AB)^1/2)² = tr AB + 2 |AB|^1/2.
    one, other = drawn([0, 0], [1, 2]), drawn([0, 0], [1, 3], seed=1)
    c, s = np.cos(0.7), np.sin(0.7)
    turned = other @ np.array([[c, s], [-s, c]])
    a, b = np.cov(one.T), np.cov(turned.T)
    root = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a @ b)))
    assert frechet_distance(one, turned) == pytest.approx(np.trace(a + b) - 2 * root)


def test_fewer_images_than_features_and_one_feature_give_a_number() -> None:
    rng = np.random.default_rng(0)
    assert frechet_distance(rng.normal(size=(5, 40)), rng.normal(size=(7, 40))) > 0
    assert frechet_distance(np.zeros((9, 1)), np.full((4, 1), 3.0)) == pytest.approx(9)


def test_kernel_distance_is_the_unbiased_mmd() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 2)), rng.normal(1, 1, size=(6, 2))

    def kernel(a, b):
        return (float(a @ b) / 2 + 1) ** 3

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    own = sum(kernel(x[i], x[j]) + kernel(y[i], y[j]) for i, j in pairs) / 30
    between = sum(kernel(a, b) for a in x for b in y) / 36
    values = kernel_distance(x, y)  # each subset is the whole
    assert values == pytest.approx([own - 2 * between] * 100)
    same = kernel_distance(rng.normal(size=(3000, 4)), rng.normal(size=(3000, 4)))
    assert abs(np.mean(same)) < 3 * np.std(same)
