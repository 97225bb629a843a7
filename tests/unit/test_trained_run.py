"""A trained run as an object: encode, decode, reconstruct, sample."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from data_pipeline.errors import UserError
from vae_dist.draw import CHUNK, chunk_size
from vae_dist.losses import LossConfig
from vae_dist.models import ModelConfig, build_model
from vae_dist.objective import Objective
from vae_dist.run.trained import Run

COUNT = CHUNK + 7  # two chunks


def run(shape: tuple[int, int, int] = (1, 6, 5), **model: Any) -> Run:
    torch.manual_seed(0)
    config = ModelConfig(model_type="fc", latent_size=3, **model)
    objective = Objective(build_model(config, shape, 4), LossConfig()).eval()
    return Run(
        name="a-run",
        objective=objective,
        config={},
        image_shape=shape,
        num_classes=4,
        step=1,
        content_hash="",
        path=Path("a-run"),
    )


def images(count: int = COUNT, shape: tuple[int, ...] = (1, 6, 5)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *shape), dtype=np.uint8)


def test_arrays_give_arrays_and_tensors_give_tensors() -> None:
    model, pixels = run(), images()
    mu, logvar = model.encode(pixels)
    assert isinstance(mu, np.ndarray)
    assert mu.shape == logvar.shape == (COUNT, 3)
    assert mu.dtype == logvar.dtype == np.float32
    same_mu, same_logvar = model.encode(torch.from_numpy(pixels))
    assert isinstance(same_mu, torch.Tensor)
    np.testing.assert_array_equal(mu, same_mu.numpy())
    np.testing.assert_array_equal(logvar, same_logvar.numpy())
    with torch.no_grad():
        want, _ = model.objective.model.encode(torch.from_numpy(pixels).float() / 255)
    np.testing.assert_allclose(mu, want.numpy(), rtol=1e-5, atol=1e-6)


def test_bytes_floats_and_images_without_a_channel_axis_are_the_same_images() -> None:
    model, pixels = run(), images()
    mu, _ = model.encode(pixels)
    np.testing.assert_array_equal(mu, model.encode(pixels.astype(np.float32) / np.float32(255))[0])
    np.testing.assert_array_equal(mu, model.encode(pixels[:, 0])[0])


def test_a_reconstruction_is_the_decoded_mean() -> None:
    model, pixels = run(), images()
    shown = model.reconstruct(pixels)
    assert shown.shape == pixels.shape
    assert shown.dtype == np.float32
    assert 0 <= shown.min() <= shown.max() <= 1
    np.testing.assert_array_equal(shown, model.decode(model.encode(pixels)[0]))


def test_no_image_is_no_fault() -> None:
    model = run()
    assert model.encode(images(0))[0].shape == (0, 3)
    assert model.decode(np.zeros((0, 3), np.float32)).shape == (0, 1, 6, 5)


def test_samples_follow_from_the_seed_and_classes_come_in_turn() -> None:
    model = run(conditional=True)
    drawn = model.sample(10)
    assert drawn.shape == (10, 1, 6, 5)
    np.testing.assert_array_equal(drawn, model.sample(10))
    assert (drawn != model.sample(10, seed=1)).any()
    np.testing.assert_array_equal(drawn, model.sample(10, np.arange(10) % 4))
    assert (drawn != model.sample(10, np.zeros(10, np.int64))).any()


def test_labels_reach_a_conditional_model() -> None:
    model, pixels = run(conditional=True), images(8)
    labels = np.arange(8) % 4
    told, untold = model.encode(pixels, labels)[0], model.encode(pixels)[0]
    assert (told != untold).any()
    np.testing.assert_array_equal(untold, model.encode(pixels, np.full(8, -1))[0])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (images(2, (1, 5, 6)), r"a-run: images of shape \(2, 1, 5, 6\).*\(n, 1, 6, 5\)"),
        (images(2, (6,)), "images of shape"),
        (images(2).astype(np.int32), "torch.int32; give uint8, or floats"),
        (images(2).astype(np.float32), "values in .* give floats in 0..1"),
        (np.full((2, 1, 6, 5), np.nan), "values in nan to nan"),
    ],
)
def test_images_of_another_shape_or_scale_are_refused(given: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        run().encode(given)


def test_latents_and_labels_of_another_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"give \(n, 3\)"):
        run().decode(np.zeros((2, 4), np.float32))
    with pytest.raises(UserError, match="2 rows, but 3 labels"):
        run().decode(np.zeros((2, 3), np.float32), np.zeros(3, np.int64))


def test_large_images_are_taken_in_smaller_chunks() -> None:
    assert chunk_size((1, 28, 28)) == CHUNK
    assert chunk_size((3, 256, 256)) == 42
    assert chunk_size((3, 4096, 4096)) == 1
