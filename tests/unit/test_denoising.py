"""With ``--augment-target original`` the encoder sees the augmented image, the loss the original."""

import pytest
import torch

from data_pipeline.errors import UserError
from data_pipeline.load.augment import Augment, AugmentConfig
from tests.unit.test_step import batch, make
from vae_dist.train.settings import Settings, check_fit
from vae_dist.train.state import TrainState
from vae_dist.train.step import train_step


def denoising(**run: object) -> TrainState:
    state = make(**run)
    state.augment = Augment(42, ("erase",), AugmentConfig(augment="erase", erase_scale="0.3,0.6"))
    state.denoises = True
    return state


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_encoder_sees_the_augmented_image_and_the_loss_the_original(accumulate):
    """The logged figures are those of the formula, of one part and of two."""
    state = denoising(accumulate=accumulate)
    b = batch()
    seen, original = state.to_images(b, augment=True), state.to_images(b, augment=False)
    assert not torch.equal(seen, original)
    noise = state.noise(b)[:, None]
    with torch.no_grad():
        terms = state.objective(seen, noise)
        z = terms.mu + noise[:, 0] * torch.exp(terms.logvar / 2)
        p = torch.sigmoid(state.objective.model.decode(z))
        recon = torch.nn.functional.binary_cross_entropy(p, original, reduction="sum")
    loss, logged, *_ = train_step(state, b, measure=True, with_ssim=True).sums.tolist()
    assert logged == pytest.approx(float(recon), rel=1e-5)
    assert loss == pytest.approx(float(recon + terms.kl.sum()), rel=1e-5)


def test_a_process_without_images_takes_part():
    state, b = denoising(), batch(count=0)
    assert train_step(state, b, measure=True).sums.tolist()[:4] == [0, 0, 0, 0]


def test_without_an_augmentation_it_warns_and_does_nothing():
    with pytest.warns(UserWarning, match="--augment-target has no effect without --augment"):
        settings = Settings.of(augment_target="original")
    assert not settings.augmentations


def test_crops_that_the_loader_cuts_have_no_original():
    class Encoded:
        name, layout = "photos", "encoded"

    settings = Settings.of(augment="crop,flip", augment_target="original")
    with pytest.raises(UserError, match="--augment-target original: crops of photos are cut"):
        check_fit(settings, Encoded())
