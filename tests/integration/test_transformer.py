"""The VAE as a transformer of scikit-learn."""

import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

from data_pipeline.errors import UserError
from vae_dist import VAETransformer, load_run

PAGE = Path(__file__).parents[2] / "docs" / "python.md"


def small(**more: object) -> VAETransformer:
    return VAETransformer(
        **{"latent_size": 2, "epochs": 1, "batch_size": 32, "device": "cpu", **more}
    )


def digits(count: int = 100) -> np.ndarray:
    return load_digits().images[:count]


@parametrize_with_checks([small()])  # none is expected to fail
def test_scikit_learns_own_checks(estimator: VAETransformer, check) -> None:
    check(estimator)


def test_the_example_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """A grid search over a pipeline finds that ten latents tell digits apart better than two."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if "VAETransformer(" in block]
    held: dict = {}
    exec(block, held)
    assert held["search"].best_params_ == {"vaetransformer__latent_size": 10}
    assert held["search"].best_score_ > 0.7
    assert (held["latents"].shape, held["latents"].dtype) == ((1797, 10), np.float32)
    assert held["again"].shape == held["images"].shape
    assert 0 <= held["again"].min() <= held["again"].max() <= 16
    error = np.square(held["again"] - held["images"]).mean()
    assert error < 0.8 * held["images"].var(0).mean(), "no better than the mean image"
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("shape", [(64,), (8, 8), (1, 8, 8), (2, 8, 4)])
def test_images_come_back_as_they_were_given(shape: tuple[int, ...]) -> None:
    images = digits().reshape(-1, *shape)
    fitted = small().fit(images)
    want = {1: (1, 8, 8), 2: (1, 8, 8)}.get(len(shape), shape)
    assert fitted.image_shape_ == fitted.run_.image_shape == want
    latents = fitted.transform(images)
    assert latents.shape == (len(images), 2)
    assert fitted.inverse_transform(latents).shape == images.shape
    np.testing.assert_array_equal(fitted.fit_transform(images), latents)  # the seed decides
    other = small(seed=1).fit_transform(images)
    assert (other != latents).any()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fitted)).transform(images), latents)
    with pytest.raises(NotFittedError):
        clone(fitted).transform(images)


def test_the_range_of_the_values() -> None:
    images = digits()
    fitted = small().fit(images)
    assert fitted.value_range_ == (0.0, 16.0)
    assert small().fit((images * 15).astype(np.uint8)).value_range_ == (0.0, 255.0)
    given = small(value_range=(-16, 16)).fit(images)
    assert -16 <= given.inverse_transform(np.zeros((3, 2))).min() < 16
    with pytest.warns(UserWarning, match="64 of 6,400 values lie beyond 0 and 16"):
        beyond = fitted.transform(np.concatenate([np.full_like(images[:1], 20), images[1:]]))
    white = fitted.transform(np.full_like(images[:1], 16))
    np.testing.assert_allclose(beyond[:1], white, rtol=1e-5)


def test_a_kept_run_is_a_run_like_any_other(tmp_path: Path) -> None:
    images = digits()
    kept = small(folder=tmp_path, settings={"conv_width": 8}, model_type="conv").fit(images)
    run = load_run(tmp_path / "runs" / "transformer", "cpu")
    assert run.config["model"]["conv_width"] == 8
    latents = kept.transform(images)
    np.testing.assert_array_equal(run.encode((images[:, None] / 16).astype(np.float32))[0], latents)
    loaded = VAETransformer.from_run(run.path, device="cpu", value_range=(0, 16))
    np.testing.assert_array_equal(loaded.transform(images), latents)
    np.testing.assert_array_equal(loaded.transform(images.reshape(len(images), -1)), latents)
    assert loaded.inverse_transform(latents).shape == (len(images), 1, 8, 8)
    assert list(loaded.get_feature_names_out()) == ["vaetransformer0", "vaetransformer1"]
    with pytest.raises(UserError, match=r"values in 0 to 16; give floats in 0\.\.1"):
        VAETransformer.from_run(run.path, device="cpu").transform(images)
    again = kept.set_params(epochs=2).fit(images)  # in the same folder
    assert again.run_.step == 2 * run.step


def test_it_speaks_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    small().fit(digits())
    assert capsys.readouterr() == ("", "")
    small(verbose=True).fit(digits())
    assert "val " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"settings": {"epochs": 3}}, "settings: epochs is set by VAETransformer itself"),
        ({"settings": {"epoch": 3}}, "there is no setting epoch"),
        ({"device": "gpu"}, "device 'gpu': expected one of auto, cpu"),
        ({"image_shape": (3, 8, 8)}, r"image_shape \(3, 8, 8\): 64 values an image"),
        ({"value_range": (1, 1)}, "value_range .*: the first value must be below"),
        ({"folds": 101}, "100 sample.*minimum of 101"),
        ({"model_type": "fcn"}, "--model-type fcn: made for images 1x28x28"),
    ],
)
def test_wrong_parameters_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(**wrong).fit(digits())
