"""Recipes: launch/accelerate, launch/presets and slurm/, read by the programs they are for."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config.config_args import load_config_from_file

from launch.config import parse
from launch.setting_files import PRESETS, preset_names
from launch.train import ModeConfig, TrainingDataConfig
from vae_dist.train.settings import Settings

REPOSITORY = Path(__file__).resolve().parents[2]
YAML = sorted((REPOSITORY / "launch" / "accelerate").glob("*.yaml"))
SCRIPTS = sorted([*REPOSITORY.glob("slurm/*.sh"), *REPOSITORY.glob("slurm/*.sbatch")])
CONTAINER = sorted(REPOSITORY.glob("launch/container/*.sh"))

SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.stem)
def test_accelerate_reads_its_configuration_and_the_head_says_the_command(path):
    load_config_from_file(str(path))
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(head)
    assert f"accelerate launch --config_file launch/accelerate/{path.name}" in text
    assert "--expect-world-size" in text
    assert "Expect:" in text


def test_there_is_a_configuration_for_each_size():
    assert {path.stem for path in YAML} == {"cpu", "multi_gpu", "multi_node", "single_gpu"}


@pytest.mark.skipif(not SHELLCHECK, reason="shellcheck is not installed")
def test_shell_scripts_are_clean():
    done = subprocess.run(
        [SHELLCHECK, "--external-sources", *map(str, SCRIPTS + CONTAINER)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_stay_short_and_name_no_site(path):
    text = path.read_text()
    assert len(text.splitlines()) < 90
    assert "/home/" not in text
    if path.suffix == ".sbatch":
        assert '"$@"' in text
        assert "#SBATCH --open-mode=append" in text


def dry_run(*words):
    return subprocess.run(
        [REPOSITORY / "slurm" / "pipeline.sh", "--dry-run", *words], capture_output=True, text=True
    )


def test_pipeline_chains_three_jobs():
    done = dry_run(
        *("--name", "best", "--data", "data/x", "--prepare", "--dataset digits --layout sample"),
        *("--train", "--epochs 2", "--evaluate", "--backend cpu", "--resources", "--nodes=2"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "prepare PREPARE\ntrain TRAIN\nevaluate EVALUATE\n"
    first, second, third = done.stderr.replace("'", "").splitlines()
    assert first == (
        "sbatch --parsable slurm/prepare.sbatch --out data/x --dataset digits --layout sample"
    )
    assert second == (
        "sbatch --parsable --dependency=afterok:PREPARE --kill-on-invalid-dep=yes --nodes=2 "
        "slurm/train.sbatch --data data/x --name best --runs-dir runs --epochs 2"
    )
    assert third == (
        "sbatch --parsable --dependency=afterok:TRAIN --kill-on-invalid-dep=yes "
        "slurm/evaluate.sbatch eval/best runs/best -- --data data/x --backend cpu"
    )


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--name", "x"], "--name and --data are needed"),
        (["--name"], "--name: unknown, or without a value"),
        (["--nodes", "2"], "--nodes: unknown"),
    ],
)
def test_pipeline_refuses_what_it_does_not_know(words, complaint):
    done = dry_run(*words)
    assert done.returncode == 2
    assert complaint in done.stderr


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({}, "Slurm gave no GPU"),
        ({"SLURM_GPUS_ON_NODE": "2", "RANKS_PER_NODE": "4"}, "RANKS_PER_NODE=4 is more than the 2"),
        ({"SLURM_GPUS_ON_NODE": "8"}, "8 processes on 4 CPU(s)"),
    ],
)
def test_a_training_job_refuses_resources_that_do_not_fit(given, complaint, tmp_path):
    job = {"SLURM_SUBMIT_DIR": str(REPOSITORY), "SLURM_NNODES": "1", "SLURM_CPUS_ON_NODE": "4"}
    job |= {"LOG_DIR": str(tmp_path), "PATH": os.environ["PATH"], **given}
    script = ["bash", REPOSITORY / "slurm" / "train.sbatch"]
    done = subprocess.run(script, env=job, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith(f"train.sbatch: {complaint}")
    assert done.stderr.count("\n") == 1


def test_every_job_says_which_processors_and_memory_it_needs():
    for path in SCRIPTS:
        if path.suffix == ".sbatch":
            text = path.read_text()
            assert "#SBATCH --cpus-per-task=" in text, path
            assert "#SBATCH --mem-per-cpu=" in text, path


@pytest.mark.parametrize("name", preset_names())
def test_preset_is_a_whole_run(name):
    head = (PRESETS / f"{name}.toml").read_text().splitlines()
    owners = [field.default_factory for field in dataclasses.fields(Settings)]
    where, _, run, *_ = parse(
        "train", [TrainingDataConfig, ModeConfig, *owners], ["--preset", name]
    )
    assert run.name == name
    assert where.dataset in ("digits", "fmnist")
    assert "--preset" in "".join(line for line in head if line.startswith("#"))
    assert any(line.startswith("# Expect: ") for line in head)


def test_every_line_of_the_ablations_is_a_run():
    owners = [field.default_factory for field in dataclasses.fields(Settings)]
    for line in (REPOSITORY / "slurm" / "ablations.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, *flags = line.split()
            parse("train", [TrainingDataConfig, ModeConfig, *owners], ["--name", name, *flags])


def test_dockerfile_copies_what_is_there_and_installs_the_pinned_set():
    text = (REPOSITORY / "launch" / "container" / "Dockerfile").read_text()
    lines = [
        line.split() for line in text.replace("\\\n", " ").splitlines() if line[:1] not in "# "
    ]
    copied = [word for words in lines if words and words[0] == "COPY" for word in words[1:-1]]
    assert {"pyproject.toml", "constraints.txt", "launch", "vae_dist"} <= set(copied)
    ignored = (REPOSITORY / ".dockerignore").read_text().split()
    assert all(f"!{name}" in ignored for name in copied)
    image = next(words[1] for words in lines if words and words[0] == "FROM")
    assert image.startswith("python:")
    assert "latest" not in image
    assert "RUN launch/container/install.sh" in text
    assert next(w for w in lines if w[:1] == ["RUN"])[:3] == ["RUN", "apt-get", "update"]
    assert "g++" in text, "torch.compile needs a compiler, and the preset large_batch compiles"
    assert text.index("USER vae") > text.index("RUN launch/container/install.sh")
    install = (REPOSITORY / "launch" / "container" / "install.sh").read_text()
    assert "--constraint constraints.txt" in install


CLOUD = REPOSITORY / "launch" / "cloud"


def manifests(name: str) -> list[dict]:
    return list(yaml.safe_load_all((CLOUD / name).read_text()))


def test_kubernetes_takes_the_job():
    """By the API's own schema; of the JobSet, a resource of its own, the Job inside."""
    validate = pytest.importorskip("kubernetes_validate")
    service, job = manifests("kubernetes-job.yaml")
    (jobset,) = manifests("kubernetes-jobset.yaml")
    (inner,) = (one["template"]["spec"] for one in jobset["spec"]["replicatedJobs"])
    head = {key: job[key] for key in ("apiVersion", "kind", "metadata")}
    for one in (service, job, {**head, "spec": inner}):
        validate.validate(one, validate.latest_version(), strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate(
            head | {"spec": {"completion": 2}}, validate.latest_version(), strict=True
        )
    name = service["metadata"]["name"]
    assert service["spec"]["selector"] == {"job-name": job["metadata"]["name"]}
    assert job["spec"]["template"]["spec"]["subdomain"] == name
    assert set(jobset["spec"]) == {"network", "failurePolicy", "replicatedJobs"}


@pytest.mark.parametrize("path", sorted(CLOUD.glob("*.yaml")), ids=lambda path: path.name)
def test_a_recipe_of_the_cloud_starts_a_training_that_resumes_from_a_store(path):
    """Its flags are those of train, for as many processes as it starts."""
    text = re.sub(r"\\\n", " ", path.read_text())
    command = re.search(r"launch/train\.py (.*?)(?:\n *(?:env|$)|\Z)", text, re.DOTALL).group(1)
    words = [w.strip('"') for w in re.sub(r"\$\(\(.*?\)\)", "8", command).split()]
    owners = [field.default_factory for field in dataclasses.fields(Settings)]
    where, _, run, *_ = parse("train", [TrainingDataConfig, ModeConfig, *owners], words)
    assert where.data.startswith("s3://")
    assert run.address.startswith("s3://")
    assert (run.resume, run.expect_world_size) == ("auto", 8)
    for needed in ("PET_SIGNALS_TO_HANDLE", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT"):
        assert needed in text
