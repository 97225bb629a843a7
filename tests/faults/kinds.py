"""The kinds of fault: each starts a command, disturbs it, and says how it may end."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.faults.server import dying_server
from tests.faults.shim import Fault
from tests.faults.training import Command, wait_for_step

STEPS = 48
TRAINING = {
    "model_type": "fc", "latent_size": 3, "epochs": 2, "batch_size": 50, "log_every": 4,
    "telemetry_interval": 0.2, "tensorboard_images": False,
}  # fmt: skip
POLITE = {signal.SIGTERM, signal.SIGINT, signal.SIGUSR2}
HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH, signal.SIGPIPE, signal.SIGXFSZ}  # fmt: skip
STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
ERRORS = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS)
MACHINE = {0, 2}
"""How a command may end whose disk fails: it never needed the file, or one line and 2."""


@dataclass
class Round:
    """One round: its random choices, its folder and the training that it disturbs."""

    number: int
    rng: Random
    place: Path
    data: Path
    ranks: int
    loader: str
    cold: bool

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.place / "run"

    def start(self, *words: object, **how: object) -> Command:
        """Start a command that has one process."""
        return Command(self.place, [str(word) for word in words], cold=self.cold, **how)

    def train(self, *, data: object = None, more: dict[str, object] | None = None, **how: object) -> Command:  # fmt: skip
        """Start the training; what does not change the weights is drawn."""
        drawn = {
            "checkpoint_every": self.rng.choice([0, 5, 9]),
            "keep_last": self.rng.choice([1, 2]),
            "tensorboard": self.rng.random() < 0.3,
        }
        settings = TRAINING | drawn | {"loader": self.loader, "runs_dir": self.place, "name": "run"}
        settings |= {"data": data or self.data, "resume": "auto", **(more or {})}
        words = [w for name, value in settings.items() for w in (f"--{name}", str(value))]
        how = {"ranks": self.ranks, "cold": self.cold, **how}
        return Command(self.place, ["train", *words], **how)

    def moment(self, command: Command) -> None:
        """Wait for a random moment of a training: in its start, or after a random step."""
        if self.rng.random() < 0.2:
            time.sleep(self.rng.uniform(0, 6 if self.cold else 1))
        else:
            wait_for_step(command, self.run, self.rng.randrange(STEPS))
            time.sleep(self.rng.uniform(0, 0.1))


@dataclass(frozen=True)
class End:
    """How a disturbed command may end; `says` is a pattern that a failure must print."""

    command: Command
    codes: set[int]
    says: str = ""


Kind = Callable[[Round], End]


def signal_sent(r: Round, to: str) -> End:
    numbers = sorted(signal.valid_signals() - STOPPING - {signal.SIGKILL})
    number = r.rng.choice([*POLITE, r.rng.choice(numbers)])
    command = r.train()
    r.moment(command)
    command.send(number, to)
    if r.ranks > 1:
        return End(command, {0, 1, 75, -number})
    early = {1, 130} if r.cold else set()  # Python itself, before the first line of ours
    return End(command, {0} if number in HARMLESS else {0, 75, -number} | early)


def signal_to_rank(r: Round) -> End:
    """Any signal to one rank."""
    return signal_sent(r, "rank")


def signal_to_launcher(r: Round) -> End:
    """Any signal to the launcher of two ranks, or to the only process."""
    return signal_sent(r, "launcher")


def signal_to_group(r: Round) -> End:
    """Any signal to all processes, as a terminal sends it."""
    return signal_sent(r, "group")


def killed(r: Round) -> End:
    """SIGKILL to a rank, the launcher or all."""
    command = r.train()
    r.moment(command)
    command.send(signal.SIGKILL, r.rng.choice(["rank", "launcher", "group"]))
    return End(command, {0, 1, -signal.SIGKILL})


def killed_in_save(r: Round) -> End:
    """SIGKILL just when a checkpoint is being written."""
    command = r.train(more={"checkpoint_every": 2})
    wait_for_step(command, r.run, r.rng.randrange(STEPS - 4))
    while command.running() and not list((r.run / "checkpoints").glob(".*")):
        time.sleep(0.0002)
    time.sleep(r.rng.uniform(0, 0.01))
    command.send(signal.SIGKILL, "group")
    return End(command, {0, 1, -signal.SIGKILL})


def paused(r: Round) -> End:
    """SIGSTOP, and SIGCONT a while later."""
    command, to = r.train(), r.rng.choice(["rank", "launcher", "group"])
    r.moment(command)
    command.send(r.rng.choice([signal.SIGSTOP, signal.SIGTSTP]), to)
    time.sleep(r.rng.uniform(0.1, 1.5))
    command.send(signal.SIGCONT, to)
    return End(command, {0})


def frozen_rank(r: Round) -> End:
    """One of two ranks stops for ever: the other one says so."""
    r.ranks = 2
    command = r.train(more={"collective_timeout": 8})
    wait_for_step(command, r.run, r.rng.randrange(STEPS // 2))
    command.send(signal.SIGSTOP, "rank")
    return End(command, {0, 1}, r"rank \d of 2")


def disk(r: Round, part: str, calls: tuple[str, ...], most: int) -> End:
    fault = Fault(
        call=r.rng.choice(calls),
        part=part,
        nth=r.rng.randint(1, most),
        times=r.rng.choice([0, 0, 1]),
        error=r.rng.choice(ERRORS),
    )
    command = r.train(fault=fault, more={"checkpoint_every": 5})
    return End(command, MACHINE, "vae-dist: error: .*")


def disk_in_checkpoint(r: Round) -> End:
    """The disk is full or broken while a checkpoint is written."""
    return disk(r, "/checkpoints/", ("open", "write", "fsync", "rename", "mkdir"), 12)


def disk_in_log(r: Round) -> End:
    """The disk is full or broken while figures, status or telemetry are written."""
    files = ["metrics.jsonl", "status.json", "telemetry", "events.out", "config.json"]
    files += ["environment.json"]
    return disk(r, r.rng.choice(files), ("open", "write", "write", "rename"), 3)


def disk_in_data(r: Round) -> End:
    """A shard or the manifest cannot be read."""
    part = r.rng.choice([".tar", ".tar", "manifest.json"])
    fault = Fault(r.rng.choice(["read", "open"]), part, r.rng.randint(1, 6), error=errno.EIO)
    return End(r.train(fault=fault), MACHINE, "vae-dist: error: .*")


def data_vanish(r: Round) -> End:
    """A shard or the manifest is removed, cut or renamed, and later put back."""
    data = r.place / "data"
    shutil.copytree(r.data, data)
    victim = r.rng.choice([*sorted(data.glob("train-*.tar")), data / "val-000000.tar", data / "manifest.json"])  # fmt: skip
    before = victim.read_bytes()
    command = None
    if r.rng.random() < 0.5:
        command = r.train(data=data)
        r.moment(command)
    match r.rng.choice(["removed", "renamed", "cut"]):
        case "removed":
            victim.unlink()
        case "renamed":
            victim.rename(data / "elsewhere")
        case "cut":
            os.truncate(victim, r.rng.randrange(len(before)))
    command = command or r.train(data=data)
    command.wait()
    victim.write_bytes(before)
    return End(command, MACHINE, f"vae-dist: error: .*({re.escape(victim.name)}|no data folder)")


def clock_jumps(r: Round) -> End:
    """The clock of the day jumps, by hours or years, back or forth."""
    jump = r.rng.choice([-1, 1]) * r.rng.choice([90, 86_400, 10 * 365 * 86_400])
    return End(r.train(fault=Fault("clock", nth=r.rng.randrange(2500), error=jump)), {0})


def nan_batch(r: Round) -> End:
    """A batch that holds a NaN."""
    step = r.rng.randrange(STEPS)

    def spoil() -> None:
        from vae_dist.train.state import TrainState

        whole = TrainState.to_images

        def to_images(state, batch, *, augment):
            images = whole(state, batch, augment=augment)
            if augment and state.counters.step == step:
                images[0, 0, 0, 0] = float("nan")
            return images

        TrainState.to_images = to_images

    r.cold = False
    return End(r.train(prepare=spoil), {1, 2}, f"step {step} .*is not finite")


def server_dies(r: Round) -> End:
    """Data over HTTP from a server that errs, cuts and stalls, and at last is gone."""
    cache = r.place / "cache"
    with dying_server(r.data, r.rng) as url:
        remote = {"cache_dir": cache, "remote_timeout": 2, "remote_retries": 1}
        command = r.train(data=url, more=remote)
        command.wait()
    return End(command, MACHINE, "vae-dist: error: .*http://127")


def disk_in_cache(r: Round) -> End:
    """The disk is full or broken where fetched shards are kept."""
    call = r.rng.choice(["open", "write", "fsync", "rename", "mkdir"])
    fault = Fault(call, "/cache", r.rng.randint(1, 8), r.rng.choice([0, 1]), r.rng.choice(ERRORS))
    with dying_server(r.data, None) as url:
        command = r.train(data=url, fault=fault, more={"cache_dir": r.place / "cache"})
        command.wait()
    return End(command, MACHINE, "vae-dist: error: .*")


def second_writer(r: Round) -> End:
    """A second training of the same name beside a running one is refused."""
    command = r.train()
    wait_for_step(command, r.run, r.rng.randrange(STEPS // 2))
    how = {"resume": ""} | r.rng.choice([{"resume": "auto"}, {"overwrite": True}, {}])
    if command.running():
        second = r.train(more=how)
        code, was_running = second.wait(), command.running()
        refused = code != 0 and "vae-dist: error: " in "".join(second.errors())
        assert refused or not was_running, f"both trained (exit {code})\n{second.said()}"
    return End(command, {0})


KINDS: list[Kind] = [
    signal_to_rank, killed, disk_in_checkpoint, data_vanish, signal_to_launcher, disk_in_log,
    paused, clock_jumps, killed_in_save, disk_in_data, signal_to_group, nan_batch, server_dies,
    disk_in_cache, frozen_rank, second_writer,
]  # fmt: skip
