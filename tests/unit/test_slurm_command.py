"""``vae-dist slurm`` hands out the batch scripts."""

import subprocess
from pathlib import Path

from launch.cli import main

SLURM = Path(__file__).parents[2] / "slurm"


def test_scripts_are_copied_and_edits_are_kept(tmp_path, capsys) -> None:
    out = tmp_path / "batch"
    assert main(["slurm", "--out", str(out)]) == 0
    assert (out / "train.sbatch").read_bytes() == (SLURM / "train.sbatch").read_bytes()
    assert (out / "accelerate" / "multi_node.yaml").is_file()
    assert (out / "cloud" / "kubernetes-jobset.yaml").is_file()
    assert (out / "pipeline.sh").stat().st_mode & 0o100
    (out / "site.sh").write_text("export SBATCH_ACCOUNT=mine\n")
    assert main(["slurm", "--out", str(out)]) == 2
    assert "site.sh" in capsys.readouterr().err
    assert "mine" in (out / "site.sh").read_text()
    assert main(["slurm", "--out", str(out), "--overwrite", "True"]) == 0
    assert "mine" not in (out / "site.sh").read_text()


def test_the_program_is_found_in_a_checkout_and_where_it_is_installed(tmp_path) -> None:
    """site.sh's find_program: launch/ beside it, else the installed package's; LAUNCH wins."""
    (tmp_path / "launch").mkdir()
    (tmp_path / "launch" / "train.py").touch()
    script = f"source {SLURM / 'site.sh'}; find_program; echo $LAUNCH"

    def found(folder: Path, **more: str) -> str:
        env = {"PATH": "/usr/bin:/bin", **more}
        answer = subprocess.run(
            ["bash", "-c", script], cwd=folder, env=env, capture_output=True, text=True, check=True
        )
        return answer.stdout.strip()

    assert found(tmp_path) == "launch"
    assert found(tmp_path, LAUNCH="/opt/launch") == "/opt/launch"
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\necho /site-packages/launch\n")
    python.chmod(0o755)
    path = f"{python.parent}:/usr/bin:/bin"
    assert found(tmp_path / "bin", PATH=path) == "/site-packages/launch"
