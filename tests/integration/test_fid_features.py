"""``evaluate --fid-features``: distances of samples and reconstructions, and of whose features."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from data_pipeline.errors import UserError
from evaluation.evaluation import EvaluateConfig, evaluate
from evaluation.features import open_features
from evaluation.measures.distances import frechet_distance
from evaluation.results.blanks import DISTANCES
from launch.config import parse
from tests.data_folders import digits, written
from tests.run_folders import write_run
from vae_dist.run.load import load_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return written(tmp_path_factory.mktemp("data") / "digits", digits())


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("runs")
    runs = [write_run(folder / name, data, seed) for seed, name in enumerate(("one", "other"))]
    config = EvaluateConfig(
        runs=runs[:1], data=data.path, out=folder / "eval", methods=("pca", "vae"), dims=(2,),
        repeats=1, backend="cpu", fid_features=runs[1], report=False,
    )  # fmt: skip
    return config, evaluate(config)


def test_reconstructions_lie_as_far_as_computed_here(evaluated):
    config, results = evaluated
    run, features = load_run(config.runs[0], "cpu"), load_run(config.fid_features, "cpu")
    images = digits().splits["test"].images
    expected = frechet_distance(
        features.encode(run.reconstruct(images))[0], features.encode(images)[0]
    )
    (row,) = results.find("frechet_recon")
    assert row.value == pytest.approx(expected, rel=1e-4)
    for metric in DISTANCES:
        (row,) = results.find(metric, run="one", method="vae")
        assert row.value is not None
        assert f"{len(images)} images, features: mu of other" in row.note


def test_second_evaluation_computes_no_distance_and_other_features_do(evaluated):
    config, first = evaluated
    again = evaluate(config)
    assert [one.backend for one in again.stages if one.stage == "distances"] == ["cache"]
    assert again.find("kernel_samples") == first.find("kernel_samples")
    own = evaluate(EvaluateConfig(**{**vars(config), "fid_features": config.runs[0]}))
    assert own.find("frechet_samples")[0].value != first.find("frechet_samples")[0].value


def test_inception_is_read_from_plain_tensors_and_nothing_else(tmp_path, data):
    from torchvision.models import inception_v3

    torch.manual_seed(0)
    model = inception_v3(weights=None, init_weights=False, aux_logits=False)
    weights = {**model.state_dict(), "AuxLogits.fc.bias": torch.zeros(1)}
    save_file(weights, tmp_path / "inception.safetensors")
    features = open_features(
        EvaluateConfig(fid_features=tmp_path / "inception.safetensors"), (1, 8, 8), "cpu"
    )
    made = features.of(torch.rand(2, 1, 8, 8))
    assert made.shape == (2, 2048)
    assert np.ptp(made, axis=0).max() > 0
    assert "Inception" in features.name
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    for name, why in (
        ("other.pth", "not the weights of torchvision"),
        ("missing.pth", "cannot be read"),
        ("missing", "no such run"),
    ):
        with pytest.raises(UserError, match=why):
            open_features(EvaluateConfig(fid_features=tmp_path / name), (1, 8, 8), "cpu")
    path = write_run(tmp_path / "run", data)
    with pytest.raises(UserError, match="trained on images 1x8x8"):
        open_features(EvaluateConfig(fid_features=path), (1, 9, 9), "cpu")


def test_flag_is_understood():
    (config,) = parse("evaluate", [EvaluateConfig], ["--fid-features", "runs/a"])
    assert str(config.fid_features) == "runs/a"
