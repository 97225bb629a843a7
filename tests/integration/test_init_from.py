"""Starting from other weights, and training only a part of a model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder
from launch.cli import main
from tests.data_folders import drawn, written
from tests.run_folders import write_run
from tests.training_runs import COMMON, flags, metrics
from vae_dist.losses import LossConfig
from vae_dist.models import MODELS, ModelConfig, build_model
from vae_dist.objective import Objective
from vae_dist.run.load import load_run
from vae_dist.train.start import StartConfig, freeze, initialise


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return written(tmp_path_factory.mktemp("init") / "data", drawn(shape=(1, 8, 8)))


@pytest.fixture(scope="module")
def run(data: DataFolder) -> Path:
    return write_run(Path(data.path).parent / "run", data)


def objective(**model: object) -> Objective:
    torch.manual_seed(7)
    config = ModelConfig(**{"model_type": "fc", "latent_size": 4, **model})  # type: ignore[arg-type]
    return Objective(build_model(config, (1, 8, 8), 10), LossConfig())


def train(data: DataFolder, runs: Path, name: str, **settings: object) -> Path:
    words = {**COMMON, "latent_size": 4, "epochs": 1, "batch_size": 32, **settings}
    words |= {"data": data.path, "runs_dir": runs, "name": name}
    assert main(["train", *flags(words)]) == 0
    return runs / name


def test_weights_begin_as_the_other_runs_and_counters_at_zero(
    data: DataFolder, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = train(data, tmp_path, "begun", init_from=run, lr=1e-30)
    assert (
        f"starting from the weights of {run}, step 1, counters at zero" in capsys.readouterr().out
    )
    assert metrics(begun, "train")[0]["step"] == 1
    source = load_run(run).objective.state_dict()
    for name, tensor in load_run(begun).objective.state_dict().items():
        torch.testing.assert_close(tensor, source[name], rtol=0, atol=1e-20)
    # Once it has a checkpoint of its own, --resume auto goes on from that.
    train(data, tmp_path, "begun", init_from=run, epochs=2)
    assert "resuming" in capsys.readouterr().out


def test_every_kind_of_file_gives_the_same_weights(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "checkpoints" / "best"
    weights = load_file(checkpoint / "model.safetensors")
    save_file(weights, tmp_path / "model.safetensors")  # also: a folder that holds such a file
    for source in (run, checkpoint.resolve(), tmp_path / "model.safetensors", tmp_path):
        fresh = objective()
        initialise(fresh, StartConfig(init_from=str(source)), "fc")
        for name, tensor in fresh.state_dict().items():
            torch.testing.assert_close(tensor, weights[name], rtol=0, atol=0)


def test_averaged_weights_are_taken_where_there_are_some(data: DataFolder, tmp_path: Path) -> None:
    averaged = train(data, tmp_path, "averaged", ema=0.9)
    fresh = objective()
    line = initialise(fresh, StartConfig(init_from=str(averaged)), "fc")
    assert "averaged" in line
    own = load_run(averaged).objective.state_dict()
    for name, tensor in fresh.state_dict().items():
        torch.testing.assert_close(tensor, own[name], rtol=0, atol=0)


def test_parts_that_do_not_fit_are_named(run: Path) -> None:
    other = objective(latent_size=5)
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(UserError, match=r"5 parts do not fit: .*fc21.weight 4x400 \(here 5x400\)"):
        initialise(other, StartConfig(init_from=str(run)), "fc")
    for name, tensor in other.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    line = initialise(other, StartConfig(init_from=str(run), init_strict=False), "fc")
    assert "taken, not these" in line
    source = load_run(run).objective.state_dict()
    name = "model.fc1.weight"
    torch.testing.assert_close(other.state_dict()[name], source[name], rtol=0, atol=0)
    name = "model.fc21.weight"
    torch.testing.assert_close(other.state_dict()[name], before[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing", None, "no such file or folder"),
        ("x.safetensors", b"no", "damaged"),
        ("empty/", None, "holds no complete checkpoint"),
    ],
)
def test_what_cannot_be_read_is_one_line(
    name: str, content: bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    elif name.endswith("/"):
        path.mkdir()
    with pytest.raises(UserError, match=message):
        initialise(objective(), StartConfig(init_from=str(path)), "fc")


@pytest.mark.parametrize("model_type", sorted(MODELS))
def test_encoder_and_decoder_are_all_of_a_model(model_type: str) -> None:
    """The two share nothing and leave nothing out, for every family."""
    shape = (1, 28, 28)
    model = build_model(ModelConfig(model_type=model_type, latent_size=3), shape, 10)
    whole = Objective(model, LossConfig())
    encoder = freeze(whole, "encoder")
    for parameter in whole.parameters():
        parameter.requires_grad_(True)
    decoder = freeze(whole, "decoder")
    assert encoder
    assert decoder
    assert sorted([*encoder, *decoder]) == sorted(name for name, _ in whole.named_parameters())


def test_a_frozen_part_stays_and_the_other_learns(
    data: DataFolder, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = train(data, tmp_path, "frozen", init_from=run, freeze="encoder", lr=0.01)
    assert "not trained: 6 tensors" in capsys.readouterr().out
    source = load_run(run).objective.state_dict()
    found = load_run(begun, which="last").objective.state_dict()
    kept = {name for name in source if torch.equal(source[name], found[name])}
    assert kept == set(freeze(objective(), "encoder"))
    words = {**COMMON, "latent_size": 4, "epochs": 2, "batch_size": 32, "data": data.path}
    words |= {"runs_dir": tmp_path, "name": "frozen"}
    assert main(["train", *flags(words)]) == 2  # the optimizer's state is of other parameters
    assert "with other parts frozen" in capsys.readouterr().err


def test_patterns_and_wrong_words() -> None:
    assert freeze(objective(), "model.fc1.*, model.fc3.bias") == [
        "model.fc1.bias",
        "model.fc1.weight",
        "model.fc3.bias",
    ]
    with pytest.raises(UserError, match="--freeze head: no such part"):
        freeze(objective(), "head")
    with pytest.raises(UserError, match="leaves nothing to train"):
        freeze(objective(), "encoder,decoder")
