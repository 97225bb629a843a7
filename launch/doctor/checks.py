"""What ``doctor`` looks at: each check returns findings, by doing rather than by asking."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import ipaddress
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import psutil
import torch

from launch.doctor.findings import Finding, Status
from launch.doctor.gpu_checks import check_gpus, check_torch
from vae_dist.memory.estimate import available_bytes
from vae_dist.telemetry.summary import show_bytes

GIB = 2**30
CUML_SECONDS = 180


def check_machine() -> Iterator[Finding]:
    """System, processors, memory, shared memory, open files, disk."""
    yield Finding("system", "note", f"{platform.platform()}, Python {platform.python_version()}")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("processors", "ok", f"{usable} usable of {os.cpu_count()}")
    total, free = psutil.virtual_memory().total, available_bytes(torch.device("cpu")) or 0
    low = free < GIB
    yield Finding(
        "memory",
        "warning" if low else "ok",
        f"{show_bytes(free)} available of {show_bytes(total)}",
        "under 1 GiB is left to this process: ask Slurm for more --mem" if low else "",
    )
    if Path("/dev/shm").is_dir():
        size = shutil.disk_usage("/dev/shm")
        small = size.free < GIB
        yield Finding(
            "shared memory",
            "warning" if small else "ok",
            f"/dev/shm: {show_bytes(size.free)} free of {show_bytes(size.total)}",
            "loader workers hand batches over there: docker run --shm-size=8g, or --workers 0"
            if small
            else "",
        )
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = 0 <= soft < 1024
    fix = f"ulimit -n {min(hard, 65536) if hard > 0 else 65536}" if few else ""
    yield Finding("open files", "warning" if few else "ok", f"up to {soft}", fix)
    disk = shutil.disk_usage(".")
    full = disk.free < GIB
    yield Finding(
        "disk",
        "warning" if full else "ok",
        f"{show_bytes(disk.free)} free in {Path.cwd()}",
        "checkpoints and shards need space; Fix: --runs-dir on another disk" if full else "",
    )


def check_packages() -> Iterator[Finding]:
    """Versions, and the distribution that must not be there."""
    found = {}
    for name in ("accelerate", "webdataset", "numpy", "scikit-learn", "umap-learn", "nvidia-ml-py"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(name, "error", "not installed", f"pip install {name}")
    yield Finding("packages", "ok", ", ".join(f"{n} {v}" for n, v in found.items()))
    try:
        old = importlib.metadata.version("pynvml")
        fix = "pip uninstall pynvml, then pip install --force-reinstall nvidia-ml-py"
        yield Finding("pynvml", "warning", f"{old}: deprecated, hides nvidia-ml-py's module", fix)
    except importlib.metadata.PackageNotFoundError:
        pass
    home = os.environ.get("HF_HOME", "~/.cache/huggingface")
    config = Path(home).expanduser() / "accelerate" / "default_config.yaml"
    if config.is_file():
        fix = "it changes a bare accelerate launch: pass --config_file launch/accelerate/NAME.yaml"
        yield Finding("accelerate config", "note", str(config), fix)


def check_cuml() -> Iterator[Finding]:
    """Whether cuML computes: asked in a process of its own, for it may crash."""
    if importlib.util.find_spec("cuml") is None:
        fix = "pip install 'vae-dist[gpu]'" if torch.cuda.is_available() else ""
        yield Finding("cuml", "note", "not installed: evaluation uses the CPU", fix)
        return
    code = (
        "import json; from evaluation.backends.choose import Backends; "
        "print(json.dumps(Backends('auto').describe()))"
    )
    try:
        child = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=CUML_SECONDS,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        answer = json.loads(child.stdout.splitlines()[-1]) if child.returncode == 0 else {}
        reason = answer.get("reason") or f"its process ended with {child.returncode}"
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        answer, reason = {}, f"no answer ({type(error).__name__})"
    if answer.get("used") == "cuml":
        yield Finding("cuml", "ok", f"computes on {answer['device']}")
    else:
        status: Status = "warning" if torch.cuda.is_available() else "note"
        yield Finding("cuml", status, f"{reason}: evaluation uses the CPU")


def check_sources() -> Iterator[Finding]:
    """Data folders that are prepared, and raw files that are found without a download."""
    from data_pipeline.sources import SourceConfig, load_source

    prepared = sorted(str(path.parent) for path in Path("data").glob("*/manifest.json"))
    yield Finding("data folders", "note", ", ".join(prepared) or "none prepared in ./data")
    for name in ("fmnist", "mnist"):
        try:
            origin = load_source(SourceConfig(dataset=name, download=False)).provenance["found"]
            yield Finding(f"source {name}", "ok", f"{origin}: complete, sums as published")
        except ValueError as error:
            fix = "it is downloaded when first needed; without a network give --source DIR"
            if name == "fmnist":
                fix += ", or: apt install dataset-fashion-mnist"
            text = "no copy found" if "not found" in str(error) else str(error)
            yield Finding(f"source {name}", "note", text, fix)
    yield Finding("source digits", "ok", "inside scikit-learn")


def check_network() -> Iterator[Finding]:
    """This host's name, the ports and interfaces that process groups need."""
    yield check_host_name(socket.gethostname())
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            socket.create_connection(("127.0.0.1", port), timeout=5).close()
        yield Finding("loopback", "ok", f"listens and answers (port {port})")
    except OSError as error:
        yield Finding("loopback", "error", str(error), "processes of one node cannot meet")
    port = int(os.environ.get("MASTER_PORT", "29500"))
    try:
        socket.create_server(("", port)).close()
        yield Finding("port", "ok", f"{port} is free")
    except OSError as error:
        fix = "pass --main_process_port 0 to accelerate launch, or --standalone to torchrun"
        yield Finding("port", "warning", f"{port}: {error.strerror}", fix)
    up = {name: state.isup for name, state in psutil.net_if_stats().items()}
    for variable in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        wanted = os.environ.get(variable, "")
        fault = interface_fault(variable, wanted, up) if wanted else ""
        if fault:
            have = f"there are: {', '.join(sorted(up))}"
            yield Finding(variable, "error", f"{wanted}: {fault}", have)
        elif wanted:
            yield Finding(variable, "ok", wanted)


def check_host_name(name: str) -> Finding:
    """Whether this host's name is an address at which other nodes reach it."""
    several = f"several nodes need it: give {name} its own address in /etc/hosts"
    several += ", or set GLOO_SOCKET_IFNAME"
    try:
        found = sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)})
    except OSError as error:
        return Finding("host name", "warning", f"{name} does not resolve ({error})", several)
    text = f"{name} is {', '.join(found)}"
    if any(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found):
        text += ": an address of this machine alone"
        return Finding("host name", "warning", text, several)
    return Finding("host name", "ok", text)


def interface_fault(variable: str, wanted: str, up: Mapping[str, bool]) -> str:
    """What is wrong with a variable that names network interfaces; empty: nothing.

    Parameters
    ----------
    variable, wanted : str
        NCCL takes beginnings of names, exact names after ``=``, and all others after ``^``;
        gloo takes exact names only.
    up : mapping of str to bool
        The interfaces of this machine, and whether each is up.
    """
    if variable.startswith("GLOO"):
        if wanted[0] in "^=":
            return f"gloo takes names alone, and no {wanted[0]}"
        exact, left_out, names = True, False, wanted.split(",")
    else:
        left_out = wanted.startswith("^")
        rest = wanted.removeprefix("^")
        exact = rest.startswith("=")
        names = [name for name in rest.removeprefix("=").split(",") if name]
    missing = [n for n in names if not any(h == n if exact else h.startswith(n) for h in up)]
    meant = {h for h in up if left_out != any(h == n if exact else h.startswith(n) for n in names)}
    if not meant or (variable.startswith("GLOO") and missing):
        return "no such interface"
    if not any(up[name] for name in meant):
        return "is down"
    return ""


def check_processes() -> Iterator[Finding]:
    """Two processes that meet and add, over gloo, as training on this machine would."""
    script = (
        "import torch, torch.distributed as d; d.init_process_group('gloo'); t = torch.ones(1); "
        "d.all_reduce(t); assert t.item() == 2; d.destroy_process_group()"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "meet.py"
        path.write_text(script)
        words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(path)]
        try:
            child = subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, timeout=150
            )
        except subprocess.TimeoutExpired:
            fix = "look at the host name, firewall and GLOO_SOCKET_IFNAME"
            yield Finding("two processes", "error", "do not meet within 150 s", fix)
            return
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["no word"])[-1]
        yield Finding("two processes", "error", f"do not meet: {last[:160]}")
    else:
        yield Finding("two processes", "ok", "meet and reduce over gloo")


def check_slurm() -> Iterator[Finding]:
    """Slurm: this job, or whether one could be submitted."""
    job = os.environ.get("SLURM_JOB_ID")
    if job:
        fields = ("NNODES", "NTASKS", "CPUS_PER_TASK", "GPUS_ON_NODE", "JOB_PARTITION")
        given = {field: os.environ.get(f"SLURM_{field}") for field in fields}
        shown = ", ".join(f"{n.lower()} {v}" for n, v in given.items() if v)
        yield Finding("slurm", "ok", f"inside job {job}: {shown}")
    elif shutil.which("sbatch") is None:
        yield Finding("slurm", "note", "not here")
    else:
        try:
            child = subprocess.run(["scontrol", "ping"], capture_output=True, text=True, timeout=10)
            text = " ".join((child.stdout or child.stderr).split())
            good = child.returncode == 0 and "UP" in text
        except (OSError, subprocess.TimeoutExpired) as error:
            text, good = type(error).__name__, False
        fix = "" if good else "sbatch will not get through: see SLURM_CONF, slurmctld"
        yield Finding("slurm", "ok" if good else "warning", text[:160], fix)


CHECKS: dict[str, tuple[Callable[[], Iterator[Finding]], float]] = {
    "machine": (check_machine, 20),
    "packages": (check_packages, 20),
    "torch": (check_torch, 120),
    "gpus": (check_gpus, 30),
    "evaluation": (check_cuml, CUML_SECONDS + 20),
    "data": (check_sources, 120),
    "network": (check_network, 30),
    "processes": (check_processes, 160),
    "slurm": (check_slurm, 20),
}
"""Groups of checks, and how many seconds each may take."""
