"""Two hosts on this machine: network namespaces joined by one cable that a test can pull."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.parts import run

PROGRAMS = {"ip": "iproute2", "unshare": "util-linux"}


@dataclass(frozen=True)
class Host:
    """A network namespace with a hostname, an address and one network card of its own."""

    name: str
    address: str
    card: str

    def start(
        self, *command: object, log: Path, cwd: Path | None = None, **environment: object
    ) -> subprocess.Popen:
        """Start a command on this host, in a session of its own, its output appended to `log`."""
        inside = f'hostname {self.name}; exec "$@"'
        words = ["ip", "netns", "exec", self.name]
        words += ["unshare", "--uts", "sh", "-c", inside, "sh", *map(str, command)]
        with log.open("a") as output:
            return subprocess.Popen(
                words,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=os.environ | {name: str(value) for name, value in environment.items()},
                start_new_session=True,
            )

    def link(self, state: str) -> None:
        """Set the host's network card `up` or `down`."""
        run("ip", "-n", self.name, "link", "set", self.card, state)


def plug(first: str, second: str) -> tuple[Host, Host]:
    """Make two hosts of these names and a cable between them."""
    network = f"10.{os.getpid() % 200 + 20}.0"
    hosts = tuple(
        Host(name=name, address=f"{network}.{number}", card=f"{name[:13]}-0")
        for number, name in enumerate((first, second), start=1)
    )
    table = "".join(f"{host.address} {host.name}\n" for host in hosts)
    for host in hosts:
        run("ip", "netns", "add", host.name)
        # `ip netns exec` lays the files of this folder over those of /etc.
        files = Path("/etc/netns") / host.name
        files.mkdir(parents=True, exist_ok=True)
        (files / "hosts").write_text(f"127.0.0.1 localhost\n{table}")
    cards = [host.card for host in hosts]
    run("ip", "link", "add", cards[0], "type", "veth", "peer", "name", cards[1])
    for host in hosts:
        run("ip", "link", "set", host.card, "netns", host.name)
        run("ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.card)
        for card in ("lo", host.card):
            run("ip", "-n", host.name, "link", "set", card, "up")
    return hosts[0], hosts[1]


def unplug(*names: str) -> None:
    """Remove the hosts of these names; the cable goes with them."""
    for name in names:
        run("ip", "netns", "delete", name, check=False)
        shutil.rmtree(Path("/etc/netns") / name, ignore_errors=True)
