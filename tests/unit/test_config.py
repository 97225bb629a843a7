"""Flags, presets and TOML files: one parser, one precedence, one line of complaint."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import pytest
from tyro.conf import arg

from data_pipeline.errors import UserError
from launch import cli, setting_files
from launch.config import parse
from vae_dist.losses import LossConfig
from vae_dist.models import ModelConfig
from vae_dist.train.optim import OptimConfig

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass(kw_only=True)
class AlphaConfig:
    """Alpha."""

    batch_size: int = 64
    """Images."""
    quick: bool = False
    """Hurry."""
    name: Annotated[str, arg(aliases=["--lognumber"])] = "x"
    """Name."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"--batch-size {self.batch_size}: must be 1 or more")


@dataclasses.dataclass(kw_only=True)
class BetaConfig:
    """Beta."""

    runs: list[str] = dataclasses.field(default_factory=list)
    """Runs."""
    rate: float = 0.1
    """Rate."""


def read(*words: str) -> tuple[AlphaConfig, BetaConfig]:
    return parse("test", [AlphaConfig, BetaConfig], words)


@pytest.mark.parametrize("flag", ["--batch-size", "--batch_size"])
def test_both_spellings(flag: str) -> None:
    assert read(flag, "3")[0].batch_size == 3


def test_alias() -> None:
    assert read("--lognumber", "seed")[0].name == "seed"


@pytest.mark.parametrize(
    ("words", "value"),
    [
        (["--quick"], True),
        (["--quick", "True"], True),
        (["--quick", "yes"], True),
        (["--quick=1"], True),
        (["--quick", "False"], False),
        (["--quick", "--rate", "1"], True),
    ],
)
def test_booleans_as_a_flag_or_with_a_value(words: list[str], value: bool) -> None:
    assert read(*words)[0].quick is value


def test_flags_beat_file_beats_preset_beats_default(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(setting_files, "PRESETS", tmp_path)
    (tmp_path / "small.toml").write_text('batch_size = 1\nrate = 1.0\nname = "preset"\n')
    file = tmp_path / "mine.toml"
    file.write_text('rate = 2.0\nname = "file"\nquick = true\nruns = ["a", "b"]\n')
    alpha, beta = read("--preset", "small", "--config", str(file), "--name", "flag")
    assert (alpha.batch_size, beta.rate, alpha.name) == (1, 2.0, "flag")
    assert (alpha.quick, beta.runs) == (True, ["a", "b"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--batch-size", "0"], "--batch-size 0: must be 1 or more"),
        (["--preset", "debgu"], "no such preset; did you mean debug?"),
        (["--bacth-size", "3"], "no such flag; did you mean --batch-size?"),
        (["--nonsense"], "no such flag; vae-dist test --help-all lists all"),
        (["--batch-size", "3.5"], "--batch-size 3.5: expected a whole number"),
        (["--rate", "fast"], "--rate fast: expected a number"),
        (["--name"], "--name: expected a value"),
        (["stray"], "not understood: stray"),
        (["--quick", "maybe"], "--quick maybe"),
        (["--preset", "nope"], "no such preset"),
        (["--config", "/nonexistent.toml"], "No such file"),
        (["--rate"], "--rate"),
    ],
)
def test_complaints_are_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        read(*words)
    assert "\n" not in str(caught.value)


def test_unknown_key_of_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text("bach_size = 3\n")
    with pytest.raises(
        ValueError, match=r"mine\.toml: 'bach-size' is no setting .*did you mean batch-size"
    ):
        read("--config", str(file))


def test_user_errors_exit_2_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.guard(lambda words: len(parse("test", [AlphaConfig], words)), ["--name"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("vae-dist: error: ")
    assert error.count("\n") == 1


def test_library_errors_keep_their_traceback() -> None:
    def command(words: object) -> int:
        import json

        return int(json.loads("{"))

    with pytest.raises(ValueError, match="Expecting"):
        cli.guard(command, [])


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["trian"]) == 2
    assert "no command 'trian'; did you mean train?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "flags"), [("encode", "--run, --images, --out"), ("sample", "--run, --out")]
)
def test_flags_that_are_missing_are_named_once(
    command: str, flags: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([command]) == 2
    assert capsys.readouterr().err == f"vae-dist: error: give {flags}; --help says what for\n"


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in cli.COMMANDS)
    assert cli.main(["--help-all"]) == 0
    assert capsys.readouterr().out == text


def test_a_command_that_loads_torch_first_says_so_at_once() -> None:
    """Loading takes seconds: `cli.SLOW` names every command whose module imports torch."""
    check = (
        "import importlib, sys; sys.modules['torch'] = None\n"
        "from launch.cli import COMMANDS, MODULES, SLOW\n"
        "for name in COMMANDS:\n"
        "    if name not in SLOW: importlib.import_module(f'launch.{MODULES.get(name, name)}')\n"
    )
    done = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_resume_of_nothing_prepares_no_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for word, said in (
        ("nowhere", "--resume nowhere: no such run or checkpoint"),
        ("empty", "empty: holds no complete checkpoint"),
    ):
        assert cli.main(["train", "--dataset", "digits", "--resume", word]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_help_fits_a_screen_or_two_and_help_all_has_every_flag(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    def said(word: str) -> str:
        with pytest.raises(SystemExit) as stop:
            cli.main([command, word])
        assert stop.value.code == 0
        return capsys.readouterr().out

    if command == "bench":
        assert cli.main(["bench", "--help"]) == 0
        return
    assert len(said("--help").splitlines()) <= 48
    whole = said("--help-all")
    for flag in said("--list-flags").split():
        assert flag in whole or flag.removeprefix("--").upper() in whole


@pytest.mark.parametrize("preset", setting_files.preset_names())
def test_every_preset_is_valid(preset: str) -> None:
    from launch.train import ModeConfig, TrainingDataConfig
    from vae_dist.train.settings import Settings

    owners = [f.default_factory for f in dataclasses.fields(Settings)]
    parse("train", [TrainingDataConfig, ModeConfig, *owners], ["--preset", preset])


def test_the_seeds_commands_parse() -> None:
    from launch.train import ModeConfig, TrainingDataConfig
    from vae_dist.train.settings import Settings

    words = [
        "--resume",
        "weights/a_best.pth.tar",
        "--epochs",
        "60",
        "--batch-size",
        "512",
        "--seed",
        "42",
        "--model_type",
        "fc_conv",
        "--dataset_type",
        "fmnist",
        "--latent_space_size",
        "10",
        "--do_augs",
        "False",
        "--lr",
        "1e-3",
        "--m1",
        "50",
        "--m2",
        "100",
        "--optimizer",
        "adam",
        "--do_running_mean",
        "False",
        "--img_loss_weight",
        "1.0",
        "--kl_loss_weight",
        "1.0",
        "--image_loss_type",
        "bce",
        "--ssim_window_size",
        "5",
        "--print-freq",
        "10",
        "--lognumber",
        "fmnist_resume",
        "--tensorboard",
        "True",
        "--tensorboard_images",
        "True",
        "--start-epoch",
        "0",
        "--model_multiplier",
        "2.0",
        "--split_filter",
        "3",
        "--no_cuda",
        "--predict",
        "--predict_train",
        "--evaluate",
    ]
    owners = {f.name: f.default_factory for f in dataclasses.fields(Settings)}
    data, mode, *rest = parse("train", [TrainingDataConfig, ModeConfig, *owners.values()], words)
    settings = Settings(**dict(zip(owners, rest, strict=True)))
    assert (data.dataset, settings.run.name, settings.log.log_every) == (
        "fmnist",
        "fmnist_resume",
        10,
    )
    assert mode.evaluate
    assert mode.predict
    assert mode.predict_train
    assert settings.precision.no_cuda
    assert settings.model.latent_size == 10


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tracker", "wandbb"], "--tracker wandbb: no such tracker; did you mean wandb?"),
        (["--tracker", "tensorboard"], "--tensorboard True"),
        (["--status-file", "gs://b/s.json"], "--status-file gs://b/s.json: is an address"),
        (["--name", "a/b"], "--name a/b"),
        (["--data-device", "cuda"], "--data-device cuda: no GPU"),
        (["--data-device", "gpu"], "--data-device gpu: expected one of auto, cpu, cuda"),
        (["--config", "."], "--config .: cannot be read"),
        (["--config", __file__], "not a TOML file"),
    ],
)
def test_what_training_cannot_use_is_refused_before_it_starts(words, said, monkeypatch) -> None:
    from launch.train import ModeConfig, TrainingDataConfig
    from vae_dist.train.settings import Settings

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    owners = [f.default_factory for f in dataclasses.fields(Settings)]
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        parse("train", [TrainingDataConfig, ModeConfig, *owners], words)
    assert "\n" not in str(caught.value)


def test_a_tracker_that_is_not_installed_is_refused(monkeypatch) -> None:
    from vae_dist.trackers import check_tracker

    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with pytest.raises(UserError, match=r"--tracker comet_ml: .*pip install comet-ml"):
        check_tracker("comet_ml")


def test_settings_that_contradict_each_other() -> None:
    from vae_dist.train.accelerator import PrecisionConfig
    from vae_dist.train.settings import RunConfig, Settings

    graphs = PrecisionConfig(compile=True, compile_mode="reduce-overhead")
    with pytest.raises(UserError, match="--compile-mode reduce-overhead with --accumulate"):
        Settings(precision=graphs, run=RunConfig(accumulate=2))
    Settings(precision=graphs)


def test_names_of_before_0_1_are_still_understood() -> None:
    """The 2018 article was called "seed" in names of presets and in a protocol."""
    from evaluation.settings import EvaluateConfig
    from launch.train import TrainingDataConfig
    from vae_dist.train.settings import RunConfig

    owners = [TrainingDataConfig, RunConfig, ModelConfig, LossConfig, OptimConfig]
    old = parse("train", owners, ["--preset", "seed_z20"])
    assert old == parse("train", owners, ["--preset", "article2018_z20"])
    assert old[2].latent_size == 20
    (comparison,) = parse("evaluate", [EvaluateConfig], ["--protocol", "seed"])
    assert comparison.protocol == "article2018"


def test_a_file_is_laid_over_its_base_and_that_over_its_own(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(setting_files, "PRESETS", tmp_path)
    (tmp_path / "ground.toml").write_text('batch_size = 1\nrate = 1.0\nname = "ground"\n')
    (tmp_path / "middle.toml").write_text('base = "ground"\nrate = 2.0\nname = "middle"\n')
    (tmp_path / "mine.toml").write_text('base = "middle.toml"\nname = "mine"\n')
    alpha, beta = read("--config", str(tmp_path / "mine.toml"))
    assert (alpha.batch_size, beta.rate, alpha.name) == (1, 2.0, "mine")
    (tmp_path / "ground.toml").write_text('base = "middle"\n')
    with pytest.raises(UserError, match="base goes in a circle: middle -> ground -> middle"):
        read("--preset", "middle")
    (tmp_path / "lost.toml").write_text('base = "grund"\n')
    with pytest.raises(UserError, match=r"no such preset; .*ground"):
        read("--preset", "lost")


def test_help_shows_the_common_flags_and_help_all_every_one(capsys) -> None:
    text = "Tests.\n\nIn a line\nor two."

    def said(word: str) -> str:
        with pytest.raises(SystemExit) as stop:
            parse("test", [AlphaConfig, BetaConfig], [word], text, ["batch_size", "name"])
        assert stop.value.code == 0
        return capsys.readouterr().out

    short, whole = said("--help"), said("--help-all")
    assert short.startswith("usage: vae-dist test [flags]\n\nTests.\n\nIn a line or two.\n\n")
    assert "--batch-size N" in short
    assert "Images. (default: 64)" in short
    assert "--rate" not in short
    assert "--help-all shows all 7 flags" in short
    assert "--rate X" in whole
    assert "--runs TEXT ..." in whole
    assert "--quick [True|False]" in whole
    assert "--name TEXT" in whole
    assert "Also --lognumber." in whole
    assert all(len(line) <= 100 for line in whole.splitlines())
    assert "None" not in whole
    assert said("--list-flags").split() == [
        *("--batch-size", "--quick", "--name", "--runs", "--rate", "--config", "--preset")
    ]


def test_presets_are_listed_and_shown(capsys) -> None:
    assert cli.main(["presets"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in setting_files.preset_names())
    assert cli.main(["presets", "article2018_z20"]) == 0
    shown = capsys.readouterr().out
    assert "latent_size = 20" in shown
    assert "batch_size = 512" in shown, "what it takes from its base is shown too"


def test_completion_knows_commands_flags_and_presets(capsys) -> None:
    """bash itself is asked what it would offer."""
    import subprocess

    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out

    def offered(*words: str) -> list[str]:
        line = " ".join(f"'{word}'" for word in ("vae-dist", *words))
        ask = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _vae_dist; echo ${{COMPREPLY[*]}}"
        done = subprocess.run(["bash", "-c", f"{script}\n{ask}"], capture_output=True, text=True)
        return done.stdout.split()

    assert offered("eval") == ["evaluate"]
    assert offered("train", "--batch") == ["--batch-size"]
    assert offered("train", "--preset", "deb") == ["debug"]
    assert offered("monitor", "--onc") == ["--once"]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_complaints_are_one_plain_line_in_any_encoding(encoding: str) -> None:
    """tyro draws its boxes with other characters where the terminal has no others."""
    words = [sys.executable, "-m", "launch.cli", "prepare", "--dataset", "cifar"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding, "LC_ALL": "C"}
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "vae-dist: error: --dataset cifar: did you mean cifar10?\n"
