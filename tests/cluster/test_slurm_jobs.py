"""The other jobs, and the endings that are not requeued."""

import json
import shutil

import pytest

from tests.cluster.training import SMALL, TOTAL

pytestmark = pytest.mark.cluster

ONE_NODE = ("--nodes=1",)
EVALUATION = ("--methods", "pca", "vae", "--dims", "2", "--backend", "cpu", "--repeats", "1")


def test_endings_that_are_not_requeued(jobs, one_process):
    # Side by side, two of them with two ranks a node on the GPUs of the node.
    crashing = jobs.submit("crashing", "--lr", "1e38", options=(*ONE_NODE, "--gpus-per-node=2"))
    mistaken = jobs.submit("mistaken", "--epochs", "none", options=ONE_NODE)
    capped = jobs.submit("capped", options=(*ONE_NODE, "--gpus-per-node=2"), MAX_TIMEOUTS="0")
    cancelled = jobs.submit("cancelled", options=ONE_NODE)

    jobs.wait_for_step("cancelled", 12)
    jobs.slurm.command("scancel", cancelled)
    jobs.wait_for_step("capped", 12)
    jobs.slurm.command("scancel", "--signal=USR2", capped)

    states = [jobs.wait(job) for job in (crashing, mistaken, capped, cancelled)]
    assert states == ["FAILED", "FAILED", "FAILED", "CANCELLED"], jobs.explain()
    assert [jobs.slurm.job(job)["Restarts"] for job in (crashing, mistaken, capped)] == ["0"] * 3
    status = {n: jobs.checkout.run_of(n).status for n in ("crashing", "capped", "cancelled")}
    assert status["crashing"]["state"] == "failed"
    assert "trainer failed" in jobs.log("crashing", crashing)
    assert "trainer never started" in jobs.log("mistaken", mistaken)
    assert "not requeued (MAX_TIMEOUTS=0)" in jobs.log("capped", capped)
    assert jobs.slurm.job(capped)["ExitCode"] == "75:0"
    for name, ranks in (("capped", 2), ("cancelled", 1)):  # both may be resumed by hand
        assert status[name]["state"] == "stopped"
        assert status[name]["world_size"] == ranks
        assert 12 <= status[name]["step"] < TOTAL
        last = jobs.checkout.path / "runs" / name / "checkpoints" / "last"
        assert json.loads((last / "meta.json").read_text())["step"] == status[name]["step"]


def test_ablation_trains_one_line_an_array_task(jobs):
    (jobs.checkout.path / "list.txt").write_text(
        "# name and flags\nbeta2 --kl-loss-weight 2\n\nwide --latent-size 6\n"
    )
    flags = ["--data", str(jobs.checkout.data), "--dataset", "digits", "--max-steps", "4"]
    job = jobs.sbatch("--array=1-3", "slurm/ablation.sbatch", "list.txt", *flags)
    tasks = jobs.tasks(job, 3)
    assert [jobs.wait(task) for task in tasks] == ["COMPLETED", "COMPLETED", "FAILED"]
    configs = [
        json.loads((jobs.checkout.path / "runs" / name / "config.json").read_text())
        for name in ("beta2", "wide")
    ]
    assert configs[0]["loss"]["kl_loss_weight"] == 2
    assert configs[1]["model"]["latent_size"] == 6
    logs = jobs.checkout.path.glob("ablation-*.log")
    assert any("list.txt has no line 3" in log.read_text() for log in logs)


def test_pipeline_prepares_trains_and_evaluates(jobs):
    said = jobs.run(
        *("slurm/pipeline.sh", "--name", "piped", "--data", "data/piped", "--out", "eval/piped"),
        *("--prepare", "--dataset digits", "--train", " ".join([*SMALL, "--epochs", "1"])),
        *("--evaluate", " ".join(EVALUATION), "--resources", "--nodes=2"),
    )
    ids = dict(line.split() for line in said.splitlines())
    assert list(ids) == ["prepare", "train", "evaluate"]
    assert f"afterok:{ids['train']}" in jobs.slurm.job(ids["evaluate"])["Dependency"]
    for job in ids.values():
        assert jobs.wait(job) == "COMPLETED", jobs.explain()
    folder = jobs.checkout.path
    assert (folder / "data" / "piped" / "manifest.json").is_file()
    assert jobs.checkout.run_of("piped").status["world_size"] == 2
    rows = json.loads((folder / "eval" / "piped" / "results.json").read_text())["rows"]
    assert {row["method"] for row in rows} >= {"pca", "vae"}


def test_pipeline_stops_at_the_first_failure(jobs):
    said = jobs.run(
        *("slurm/pipeline.sh", "--name", "nothing", "--data", "data/nothing"),
        *("--prepare", "--dataset nonsense"),
    )
    prepare, train, evaluate = (line.split()[1] for line in said.splitlines())
    assert jobs.wait(prepare) == "FAILED"
    assert jobs.wait(train) == "CANCELLED"
    assert jobs.wait(evaluate) == "CANCELLED"


def test_evaluation_array_finishes_the_others_when_one_run_is_broken(jobs, one_process):
    runs = jobs.checkout.path / "runs"
    shutil.copytree(one_process.path, runs / "twin", symlinks=True)
    shutil.copytree(one_process.path, runs / "broken", symlinks=True)
    for weights in (runs / "broken").rglob("model.safetensors"):
        weights.write_bytes(weights.read_bytes()[:1000])
    job = jobs.sbatch(
        *("--array=1-3", "slurm/evaluate.sbatch", "eval/array"),
        *("runs/one-process", "runs/broken", "runs/twin", "--"),
        *("--data", str(jobs.checkout.data), *EVALUATION),
    )
    tasks = jobs.tasks(job, 3)
    assert [jobs.wait(task) for task in tasks] == ["COMPLETED", "FAILED", "COMPLETED"], (
        jobs.explain()
    )
    for name in ("one-process", "twin"):
        assert (jobs.checkout.path / "eval" / "array" / name / "results.json").is_file()
