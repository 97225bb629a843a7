"""Trainings that differ only in their seed are summarised as one line; others are not."""

import pytest

from evaluation.results.records import Results, Row, RunInfo
from evaluation.results.seeds import alike, over_seeds, training_key

CONFIG = {
    "model": {"model_type": "fc"},
    "loss": {"image_loss_type": "bce"},
    "optim": {"lr": 0.001},
    "precision": {"mixed_precision": "no", "tf32": True},
    "data": {"fingerprint": "f", "path": "here"},
    "run": {
        "name": "a",
        "seed": 1,
        "epochs": 3,
        "max_steps": 0,
        "batch_size": 8,
        "accumulate": 1,
        "do_augs": False,
    },
}


def changed(section, **settings):
    return {**CONFIG, section: {**CONFIG[section], **settings}}


def test_key_is_of_what_decides_a_training():
    own = training_key(CONFIG)
    assert training_key(changed("run", seed=2, name="b")) == own
    assert training_key(changed("data", path="elsewhere")) == own
    assert training_key(changed("run", accumulate=4)) == own  # the same result, in parts
    for other in (
        changed("loss", image_loss_type="mse"),
        changed("run", epochs=4),
        changed("optim", lr=0.01),
        changed("model", model_type="conv"),
        changed("data", fingerprint="g"),
        changed("precision", mixed_precision="bf16"),
    ):
        assert training_key(other) != own
    assert training_key({"model": {}}) is None  # a 2018 checkpoint does not say


def results(runs, rows):
    return Results(
        dataset="d", data_fingerprint="f", image_shape=[1, 8, 8], classes=[], counts={},
        protocol="quick", seed=0, backend={}, versions={}, runs=runs, rows=rows,
    )  # fmt: skip


def run(name, seed, training="t"):
    return RunInfo(
        name=name, path=name, content_hash=name, step=1, latent_size=2, seed=seed, training=training
    )


def row(name, value, metric="ssim", **fields):
    return Row(dataset="d", method="vae", dim=2, metric=metric, value=value, run=name, **fields)


def test_mean_and_interval_over_the_trainings():
    """The t interval of .6, .7, .8 by hand: 4.303 x .1 / sqrt 3."""
    runs = [run("a", 1), run("b", 2), run("c", 3), run("other", 4, "u"), run("seed", None, None)]
    rows = [row("a", 0.6), row("b", 0.7), row("c", 0.8), row("other", 0.1)]
    rows += [row("a", 0.5, "knn", k=1), row("b", 0.5, "knn", k=1), row("c", 0.5, "knn", k=5)]
    found = over_seeds(results(runs, rows))
    assert [one.metric for one in found] == ["ssim"]  # nobody has knn at one k for all three
    (mean,) = found
    assert (mean.run, mean.repeats, mean.values) == ("a, b, c", 3, [0.6, 0.7, 0.8])
    assert mean.value == pytest.approx(0.7)
    assert mean.ci_high - mean.value == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)


def test_one_seed_twice_is_one_training():
    assert alike(results([run("a", 1), run("copy", 1)], [])) == []
