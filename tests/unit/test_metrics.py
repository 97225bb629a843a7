"""Image metrics against plain numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate1d

from vae_dist import metrics

SHAPES = ((1, 28, 28), (3, 17, 23))


def pair(shape: tuple[int, int, int], count: int = 3) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    x = random.random((count, *shape))
    return x, np.clip(x + 0.2 * random.standard_normal(x.shape), 0, 1)


def plain_ssim(x: np.ndarray, y: np.ndarray, window: int, valid: bool) -> np.ndarray:
    offsets = np.arange(window) - window // 2
    weights = np.exp(-(offsets**2) / (2 * 1.5**2))
    weights /= weights.sum()

    def blur(images: np.ndarray) -> np.ndarray:
        for axis in (2, 3):
            images = correlate1d(images, weights, axis=axis, mode="constant")
        edge = window // 2
        return images[:, :, edge:-edge, edge:-edge] if valid else images

    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    cov = blur(x * y) - mean_x * mean_y
    score = (2 * mean_x * mean_y + 1e-4) * (2 * cov + 9e-4)
    score /= (mean_x**2 + mean_y**2 + 1e-4) * (var_x + var_y + 9e-4)
    return score.mean(axis=(1, 2, 3))


@pytest.mark.parametrize("shape", SHAPES)
def test_ssim_matches_scipy(shape: tuple[int, int, int]) -> None:
    x, y = pair(shape)
    a, b = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    for window in (3, 5, 11):
        expected = plain_ssim(x, y, window, valid=False)
        np.testing.assert_allclose(metrics.ssim(a, b, window), expected, atol=2e-5)
    np.testing.assert_allclose(metrics.ssim11(a, b), plain_ssim(x, y, 11, True), atol=2e-5)


def test_both_ways_to_blur_agree() -> None:
    images = torch.rand(2, 3, 19, 13)
    kernel = metrics._gaussian(5, 1.5)
    for padding in (0, 2):
        expected = metrics._shifted_sums(images, kernel, padding)
        torch.testing.assert_close(metrics._blur(images, kernel, padding), expected)


def test_the_ends_of_the_scales() -> None:
    x = torch.rand(2, 1, 28, 28)
    for metric in (metrics.ssim, metrics.ssim11):
        torch.testing.assert_close(metric(x, x), torch.ones(2))
    torch.testing.assert_close(metrics.psnr(x, x), torch.full((2,), 100.0))
    half, zero = torch.full((1, 1, 8, 8), 0.5), torch.zeros(1, 1, 8, 8)
    assert float(metrics.mse(half, zero)) == 0.25
    assert float(metrics.psnr(half, zero)) == pytest.approx(6.0206, abs=1e-4)


def test_small_images_take_the_largest_window_that_fits() -> None:
    x, y = pair((1, 8, 8))
    expected = plain_ssim(x, y, 7, valid=True)
    got = metrics.ssim11(torch.from_numpy(x), torch.from_numpy(y))
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_no_image_gives_no_figure() -> None:
    none = torch.zeros(0, 1, 28, 28)
    for metric in (metrics.ssim, metrics.ssim11, metrics.mse, metrics.psnr):
        assert metric(none, none).shape == (0,)


def test_autocast_leaves_figures_alone() -> None:
    x, y = (torch.from_numpy(image).float() for image in pair((1, 28, 28)))
    expected = metrics.ssim(x, y)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(metrics.ssim(x, y), expected, rtol=0, atol=0)
