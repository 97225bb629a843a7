"""Which process of how many: every launcher's environment, whole, half and left over."""

import socket
from datetime import timedelta

import pytest
from torch import distributed as dist

from data_pipeline.errors import UserError
from launch import processes
from launch.cli import complain, guard
from launch.launchers import first_host, tasks_of_node
from launch.processes import check_accelerate, check_device, find_processes, join

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29400",
    "TORCHELASTIC_RUN_ID": "none",
}
SRUN = {
    "SLURM_JOB_ID": "12345",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "3",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_STEP_NODELIST": "node[01-02]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
}
MPIRUN = {
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29400",
}
BY_HAND = {k: v for k, v in TORCHRUN.items() if k != "TORCHELASTIC_RUN_ID"}
BATCH = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}

UNDERSTOOD = {
    "nothing": ({}, (0, 1, "none")),
    "an address left over": ({"MASTER_ADDR": "gone", "MASTER_PORT": "1"}, (0, 1, "none")),
    "one process, half set": ({"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"}, (0, 1, "none")),
    "torchrun": (TORCHRUN, (3, 4, "torch")),
    "torchrun in a task of srun": (SRUN | TORCHRUN, (3, 4, "torch")),
    "torchrun with an MPI's left over": (TORCHRUN | {"PMI_SIZE": "8"}, (3, 4, "torch")),
    "by hand": (BY_HAND, (3, 4, "by hand")),
    "srun": (SRUN, (2, 3, "srun")),
    "srun, the address by hand": (SRUN | {"MASTER_ADDR": "a", "WORLD_SIZE": "3"}, (2, 3, "srun")),
    "srun --mpi=pmi2": (SRUN | {"PMI_SIZE": "3", "PMI_RANK": "2"}, (2, 3, "srun")),
    "srun of one task": (SRUN | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}, (0, 1, "none")),
    "a batch script": (BATCH, (0, 1, "none")),
    "a batch step's number": (BATCH | {"SLURM_STEP_ID": "4294967291"}, (0, 1, "none")),
    "salloc's shell": ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}, (0, 1, "none")),
    "mpirun": (MPIRUN, (1, 2, "mpirun")),
    "mpirun of one": ({"PMI_SIZE": "1", "PMI_RANK": "0"}, (0, 1, "none")),
}

REFUSED = {
    "a rank": {"RANK": "1"},
    "rank zero": {"LOCAL_RANK": "0"},
    "a size": {"WORLD_SIZE": "2"},
    "no address": {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2"},
    "no port": {k: v for k, v in BY_HAND.items() if k != "MASTER_PORT"},
    "a rank beyond the size": TORCHRUN | {"RANK": "4"},
    "a local rank beyond the machine's": TORCHRUN | {"LOCAL_RANK": "2"},
    "no number": TORCHRUN | {"RANK": "first"},
    "no port number": TORCHRUN | {"MASTER_PORT": "99999"},
    "PMI without an address": {"PMI_SIZE": "2", "PMI_RANK": "0"},
    "PMI size alone": {"PMI_SIZE": "2"},
    "Open MPI without an address": {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
    "MVAPICH rank alone": {"MV2_COMM_WORLD_RANK": "1"},
    "PMIx rank alone": {"PMIX_RANK": "0"},
    "a Slurm task of no job": {"SLURM_NTASKS": "2", "SLURM_PROCID": "1"},
    "a Slurm task beyond the tasks": SRUN | {"SLURM_PROCID": "3"},
    "srun without node list": {k: v for k, v in SRUN.items() if "NODELIST" not in k},
    "srun with a rank left over": SRUN | {"RANK": "0"},
    "srun with a size left over": SRUN | {"WORLD_SIZE": "8"},
    "srun with all left over": SRUN | BY_HAND | {"WORLD_SIZE": "3", "RANK": "1"},
}


@pytest.mark.parametrize(("environ", "expected"), UNDERSTOOD.values(), ids=UNDERSTOOD)
def test_understood(environ, expected):
    found = find_processes(environ)
    assert (found.rank, found.size, found.launcher) == expected


@pytest.mark.parametrize("environ", REFUSED.values(), ids=REFUSED)
def test_refused_in_one_line_that_names_a_variable(environ):
    with pytest.raises(UserError) as caught:
        find_processes(environ)
    text = str(caught.value)
    assert "\n" not in text
    assert any(name in text for name in environ)
    assert "Fix:" in text or "is no port" in text


def test_srun_is_mapped_for_torch(monkeypatch):
    monkeypatch.setattr(processes, "address_of", lambda host: host)
    environ = SRUN | {"PMI_SIZE": "3", "PMI_RANK": "2"}
    join(environ)
    expected = {
        "RANK": "2",
        "WORLD_SIZE": "3",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "node01",
        "MASTER_PORT": "22345",
    }
    assert expected.items() <= environ.items()
    assert "PMI_SIZE" not in environ, "Accelerate would believe it first"
    assert join(environ).launcher == "srun", "a second time nothing changes"
    assert expected.items() <= environ.items()


def test_a_task_with_a_gpu_of_its_own_takes_that():
    own = {"SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "0", "SLURM_LOCALID": "1"}
    found = find_processes(SRUN | own)
    assert found.variables["LOCAL_RANK"] == "0"
    check_device(found, {}, gpus=1)


def test_leftovers_are_taken_out_of_accelerates_sight():
    environ = {"WORLD_SIZE": "1", "LOCAL_RANK": "0", "PMI_SIZE": "1", "PMI_RANK": "0"}
    join(environ)
    assert not environ


def test_a_batch_script_is_told_what_would_start_its_tasks():
    assert "srun" in find_processes(BATCH).note
    assert not find_processes({}).note


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node[03-05,7],login", "node03"),
        ("rack[2,4]n[1-9]-gpu,x", "rack2n1-gpu"),
        ("a,b", "a"),
        ("", ""),
    ],
)
def test_first_host_of_a_node_list(nodes, first):
    assert first_host(nodes) == first


def test_tasks_of_node():
    assert [tasks_of_node("2(x3),1", node) for node in range(5)] == [2, 2, 2, 1, None]


@pytest.mark.parametrize(("gpus", "fine"), [(0, True), (2, True), (1, False)])
def test_more_processes_than_gpus(gpus, fine):
    found = find_processes(TORCHRUN)
    if fine:
        check_device(found, TORCHRUN, gpus)
    else:
        with pytest.raises(UserError, match=r"2 processes on this machine .* 1 GPU"):
            check_device(found, TORCHRUN | {"CUDA_VISIBLE_DEVICES": "0"}, gpus)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ACCELERATE_USE_FSDP", "true", "DDP"),
        ("ACCELERATE_USE_DEEPSPEED", "1", "DDP"),
        ("ACCELERATE_USE_MEGATRON_LM", "True", "DDP"),
        ("ACCELERATE_MIXED_PRECISION", "fp16", "--mixed-precision fp16"),
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR", "--compile True"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4", "--accumulate 4"),
    ],
)
def test_accelerates_configuration_that_contradicts_is_refused(name, value, said):
    with pytest.raises(UserError, match=said) as caught:
        check_accelerate({name: value}, "bf16")
    assert name in str(caught.value)


def test_accelerates_usual_variables_are_fine():
    usual = {
        "ACCELERATE_USE_FSDP": "false",
        "ACCELERATE_MIXED_PRECISION": "bf16",
        "ACCELERATE_DYNAMO_BACKEND": "NO",
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1",
        "ACCELERATE_USE_CPU": "False",
    }
    check_accelerate(usual, "bf16")
    check_accelerate({"ACCELERATE_MIXED_PRECISION": "fp16"})  # a command that does not train


@pytest.mark.parametrize(
    ("environ", "speaks"),
    [
        ({}, True),
        ({"RANK": "1"}, True),
        (BY_HAND, True),
        (TORCHRUN, False),
        (TORCHRUN | {"LOCAL_RANK": "0"}, True),
    ],
)
def test_errors_wait_only_where_a_launcher_runs_another_that_speaks(
    environ, speaks, monkeypatch, capsys
):
    """And are said in the end: they may be this process's own."""
    waits = []
    monkeypatch.setattr("os.environ", environ)
    monkeypatch.setattr("time.sleep", waits.append)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    complain(UserError("--epochs nope"))
    assert bool(waits) != speaks
    said = "" if speaks else "rank 3: "
    assert capsys.readouterr().err == f"vae-dist: error: {said}--epochs nope\n"


@pytest.mark.parametrize("launcher", [{}, {"TORCHELASTIC_RUN_ID": "x"}])
def test_a_process_that_waits_for_others_says_so(launcher, monkeypatch, capsys):
    """torch's own store, at an address where nobody listens; of a launcher's ranks one speaks."""
    import torch.distributed as dist

    from vae_dist.train import accelerator

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    for name, value in ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"} | place).items():
        monkeypatch.setenv(name, value)
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(accelerator, "TOLD_AFTER", 0.1)
    with pytest.raises(dist.DistNetworkError), accelerator.told_what_is_awaited(7.0):
        dist.TCPStore("127.0.0.1", port, 2, False, timeout=timedelta(seconds=1))
    said = capsys.readouterr().err
    line = f"RANK=1 of WORLD_SIZE=2: waiting for the other processes at 127.0.0.1:{port}, up to 7 s"
    assert (line in said) == (not launcher)
    assert ("unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT" in said) == (not launcher)


def _succeed(words):
    return 0


def _be_wrong(words):
    raise UserError("wrong")


def _break(words):
    raise RuntimeError("a bug")


@pytest.mark.parametrize(("command", "code"), [(_succeed, 0), (_be_wrong, 2), (_break, None)])
def test_a_process_leaves_its_group_before_it_ends(command, code, capsys):
    """Else gloo's threads abort it now and then: 6 of 12 tiny programs of torchrun's, here."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    if code is None:
        with pytest.raises(RuntimeError):
            guard(command, [])
    else:
        assert guard(command, []) == code
    assert not dist.is_initialized()


def test_a_group_that_may_wait_for_the_dead_is_left_only_after_success(monkeypatch):
    """NCCL's, which no machine without a GPU has."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    monkeypatch.setattr(dist, "get_backend", lambda: "nccl")
    assert guard(lambda words: 3, []) == 3
    assert dist.is_initialized()
    assert guard(_succeed, []) == 0
    assert not dist.is_initialized()
