"""``vae-dist export``: each form gives the run's own outputs, and says by how much it differs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.folder import DataFolder
from launch.cli import main
from tests.data_folders import drawn, written
from tests.integration.hub_stand_in import hub
from tests.run_folders import write_run
from tests.training_runs import ROOT
from vae_dist.export import programs
from vae_dist.export.card import model_card
from vae_dist.run.load import load_run
from vae_dist.run.trained import Run

SHAPE = (1, 9, 8)
MODELS = {
    "fc_conv": {"model_type": "fc_conv"},
    "conv": {"model_type": "conv", "conv_width": 8, "normalise": "set"},
    "conditional": {"model_type": "fc", "conditional": True},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    return written(tmp_path_factory.mktemp("export") / "data", drawn(shape=SHAPE))


@pytest.fixture(scope="module")
def runs(data: DataFolder) -> dict[str, Run]:
    root = Path(data.path).parent
    return {name: load_run(write_run(root / name, data, **more)) for name, more in MODELS.items()}


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        ("/home/me/bin/vae-dist", "vae-dist train --lr 0.1"),
        ("/home/me/src/launch/cli.py", "vae-dist train --lr 0.1"),
        ("/home/me/src/launch/train.py", "vae-dist train train --lr 0.1"),
        ("/home/me/my_program.py", None),
    ],
)
def test_a_card_names_the_command_and_no_place_of_it(
    program: str, shown: str | None, runs: dict[str, Run]
) -> None:
    run = runs["fc_conv"]
    file = run.path.parents[1] / "environment.json"
    file.write_text(json.dumps({"command": [program, "train", "--lr", "0.1"]}))
    card = model_card(run)
    file.unlink()
    assert "/home/me" not in card
    assert (f"```\n{shown}\n```" in card) is (shown is not None)


def export(run: Run, out: Path, *words: str) -> int:
    return main(["export", "--run", str(run.path.parents[1]), "--out", str(out), *words])


@pytest.mark.parametrize("name", MODELS)
def test_safetensors_are_a_run_again(name: str, runs: dict[str, Run], tmp_path: Path) -> None:
    assert export(runs[name], tmp_path / "out") == 0
    again = load_run(tmp_path / "out")
    images = np.random.default_rng(1).integers(0, 256, (4, *SHAPE), dtype=np.uint8)
    np.testing.assert_array_equal(again.encode(images)[0], runs[name].encode(images)[0])
    assert (again.name, again.step) == (name, 1)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "model.safetensors",
        "config.json",
        "README.md",
    }
    # It is given to others: no path of this machine.
    assert str(runs[name].path.parents[2]) not in (tmp_path / "out" / "config.json").read_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert f"# {name}" in card
    assert "images 1x9x8 with 4 latents" in card
    assert "| loss | 2.0000 |" in card


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", ["torch.export", "onnx"])
def test_programs_give_the_runs_outputs_for_any_batch(
    kind: str,
    name: str,
    runs: dict[str, Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if kind == "onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    run, out = runs[name], tmp_path / "out"
    assert export(run, out, "--to", kind) == 0
    said = re.search(r"difference from the run itself: (.*)", capsys.readouterr().out)
    assert said
    worst = {word.split()[0]: float(word.split()[1]) for word in said[1].split(", ")}
    assert set(worst) == {"mu", "logvar", "decoded"}
    assert max(worst.values()) < 1e-4
    pixels = np.random.default_rng(1).integers(0, 256, (5, *SHAPE), dtype=np.uint8)
    labels = np.array([0, 1, 2, 1, -1])
    told = (labels,) if name == "conditional" else ()
    images = pixels.astype(np.float32) / np.float32(255)
    mu, logvar = run.encode(pixels, *told)
    found: list[np.ndarray] = []
    for part, first in (("encoder", images), ("decoder", mu)):
        if kind == "onnx":
            session = onnxruntime.InferenceSession(out / f"{part}.onnx")
            names = [one.name for one in session.get_inputs()]
            assert names == [{"encoder": "images", "decoder": "z"}[part], "labels"][: 1 + len(told)]
            found += session.run(None, dict(zip(names, (first, *told), strict=True)))
        else:
            program = torch.export.load(out / f"{part}.pt2").module()
            outputs = program(*map(torch.from_numpy, (first, *told)))
            outputs = outputs if isinstance(outputs, tuple) else (outputs,)
            found += [output.detach().numpy() for output in outputs]
    for have, want in zip(found, (mu, logvar, run.decode(mu, *told)), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-4, atol=1e-5)


def test_a_program_that_differs_is_not_put_in_place(
    runs: dict[str, Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match="differ from the run"):
        export(runs["fc_conv"], tmp_path / "out", "--to", "torch.export")
    assert not (tmp_path / "out").exists()


def test_an_export_is_not_overwritten_unasked(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export(runs["fc_conv"], out) == 0
    assert export(runs["fc_conv"], out) == 2
    assert "--overwrite True" in capsys.readouterr().err
    assert export(runs["conditional"], out, "--overwrite") == 0
    assert load_run(out).name == "conditional"
    (out / "notes.txt").write_text("mine")
    assert export(runs["fc_conv"], out, "--overwrite") == 2
    assert (out / "notes.txt").read_text() == "mine"


def test_the_hub_gets_a_run_and_gives_it_back(runs: dict[str, Run], tmp_path: Path) -> None:
    """By the Hub's own client, against a stand-in of the Hub."""
    pytest.importorskip("huggingface_hub")
    run = runs["fc_conv"]
    script = (
        "import sys\n"
        "from launch.cli import main\n"
        "words = ['export', '--run', sys.argv[1], '--to', 'hub', '--out']\n"
        "assert main([*words, sys.argv[2], '--repo-id', 'user/model']) == 0\n"
        "assert main([*words, sys.argv[2] + '2', '--repo-id', 'user/closed']) == 2\n"
        "from vae_dist.export.hub import HubRun\n"
        "again = HubRun.from_pretrained('user/model')\n"
        "print('name', again.run.name, again.run.content_hash)\n"
        "again.save_pretrained(sys.argv[2] + '3')\n"
        "print(HubRun.from_pretrained(sys.argv[2] + '3').run.content_hash)\n"
    )
    with hub(tmp_path / "repository") as address:
        done = subprocess.run(
            [sys.executable, "-c", script, str(run.path.parents[1]), str(tmp_path / "out")],
            env=os.environ
            | {
                "PYTHONPATH": str(ROOT),
                "HF_ENDPOINT": address,
                "HF_HOME": str(tmp_path / "home"),
                "HF_TOKEN": "hf_standin",
                "HF_HUB_DISABLE_XET": "1",
                "NO_PROXY": "127.0.0.1",
            },
            capture_output=True,
            text=True,
            timeout=200,
        )
    assert done.returncode == 0, done.stderr
    assert "published: http" in done.stdout
    assert "--repo-id user/closed: not published" in done.stderr
    wanted = load_run(tmp_path / "out").content_hash
    assert f"name fc_conv {wanted}" in done.stdout
    assert done.stdout.splitlines()[-1] == wanted
    card = (tmp_path / "repository" / "README.md").read_text()
    assert "library_name: vae-dist" in card


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--run", "nowhere"], "nowhere"),
        (["--to", "coreml"], "--to"),
        (["--repo-id", "user/x"], "--repo-id user/x: has no effect"),
        (["--results", "nowhere"], "nowhere"),
    ],
)
def test_wrong_input_is_one_line(
    words: list[str],
    message: str,
    runs: dict[str, Run],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert export(runs["fc_conv"], tmp_path / "out", *words) == 2
    complaint = capsys.readouterr().err
    assert message in complaint
    assert not (tmp_path / "out").exists()


def test_a_damaged_export_is_one_line(
    runs: dict[str, Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert export(runs["fc_conv"], out) == 0
    config = json.loads((out / "config.json").read_text())
    config["model"]["latent_size"] = 5
    (out / "config.json").write_text(json.dumps(config))
    assert (
        main(["encode", "--run", str(out), "--images", "x", "--out", str(tmp_path / "z.npz")]) == 2
    )
    assert "do not fit config.json" in capsys.readouterr().err
