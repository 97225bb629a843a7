"""The test cluster itself: two nodes, two GPUs each, requeue and preemption as on a real one."""

import pytest

pytestmark = pytest.mark.cluster


def test_two_nodes_run_a_job(slurm, tmp_path):
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\n"
        "srun bash -c 'echo $SLURMD_NODENAME $SLURM_NODEID $CUDA_VISIBLE_DEVICES' | sort\n"
    )
    log = tmp_path / "log"
    job = slurm.submit(
        "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=2", f"--output={log}", script
    )
    assert slurm.wait(job) == "COMPLETED", log.read_text()
    assert log.read_text().split("\n")[:2] == ["node1 0 0,1", "node2 1 0,1"]
