"""What the cluster tests need of the machine: root, Debian packages, and how to skip without them."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]


def need_root() -> None:
    """Skip unless we are root on Linux, for daemons, device files and network namespaces."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("needs root on Linux")


def need_programs(programs: dict[str, str]) -> None:
    """Install the Debian packages that bring `programs` (name -> package), or skip and say why."""
    missing = sorted({package for name, package in programs.items() if not shutil.which(name)})
    if not missing:
        return
    if not shutil.which("apt-get"):
        pytest.skip(f"needs {', '.join(missing)}, and there is no apt-get to install them")
    # Runlevel 1 keeps the packages from starting their daemons: the tests start their own.
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    install = [*apt, "install", "-y", "--no-install-recommends", *missing]
    for command in (install, [*apt, "update"], install):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
        if command is install and done.returncode == 0:
            return
    pytest.skip(f"cannot install {', '.join(missing)}: {done.stderr.strip()[-300:]}")


def run(*command: object, check: bool = True, timeout: float = 120, **options) -> str:
    """Run a command to its end and return what it printed; on failure say what it said."""
    done = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        **options,
    )
    if check and done.returncode != 0:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stdout}")
    return done.stdout


def wait_until(
    condition: Callable[[], object],
    what: str,
    *,
    timeout: float,
    interval: float = 0.2,
    explain: Callable[[], object] = lambda: "",
) -> object:
    """Wait until `condition` gives something true and return it; fail by name after `timeout`."""
    end = time.monotonic() + timeout
    while not (result := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout:g} s for {what}\n{explain()}")
        time.sleep(interval)
    return result
