"""The sampler thread of a rank: reads, writes ``telemetry.jsonl``, sums up."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from rich.console import Group

from data_pipeline.order import World
from vae_dist.telemetry.choose import open_device
from vae_dist.telemetry.config import TelemetryConfig
from vae_dist.telemetry.device import Device
from vae_dist.telemetry.process import ProcessReader, read_allocator
from vae_dist.telemetry.summary import EnergyMeter, Running, table
from vae_dist.telemetry.throughput import StepCounter

log = logging.getLogger("vae_dist.telemetry")
PATIENCE = 5.0  # seconds that the end of a run waits for the driver
Writer = Callable[[Mapping[str, Any]], None]


def telemetry_file(run_dir: Path, rank: int) -> Path:
    """Where a rank's samples lie in a run folder."""
    return run_dir / ("telemetry.jsonl" if rank == 0 else f"telemetry-rank{rank:05d}.jsonl")


class LineFile:
    """Appends JSON objects, one a line; a full or lost disk costs one warning, not the run."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._broken = False

    def __call__(self, record: Mapping[str, Any]) -> None:
        if self._broken:
            return
        line = json.dumps(record) + "\n"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a+b") as file:
                if file.tell() and not self._ends_whole(file):
                    line = "\n" + line  # a killed run may have left half a line
                file.write(line.encode())
        except OSError as error:
            self._broken = True
            log.warning("telemetry: cannot write %s (%s); sampling goes on", self.path, error)

    @staticmethod
    def _ends_whole(file: Any) -> bool:
        file.seek(-1, 2)
        return bool(file.read(1) == b"\n")


class Telemetry:
    """Samples one rank while its ``with`` block runs.

    Only the sampler's thread calls the driver: a call that hangs there never holds up
    training.

    Parameters
    ----------
    config : TelemetryConfig
        An interval of 0 starts no thread and writes nothing; steps are still counted.
    device : torch.device
        Where the rank trains.
    watched : Device
        The GPU to read, or one that measures nothing.
    world : World
        This rank and the number of ranks.
    writer : callable
        Receives each record.
    first_step : int
        Optimizer steps that the run had taken before, where it is resumed.
    """

    def __init__(
        self,
        config: TelemetryConfig,
        *,
        device: torch.device,
        watched: Device,
        world: World,
        writer: Writer,
        first_step: int = 0,
    ) -> None:
        self.config = config
        self.device = device
        self.watched = watched
        self.world = world
        self._writer = writer
        self._first_step = first_step
        self._steps = StepCounter()
        self._process = ProcessReader()
        self._running = Running()
        self._energy = EnergyMeter()
        self._latest: dict[str, Any] = {}
        self._model: Any = None
        self._thread: threading.Thread | None = None
        self._wake = threading.Condition()  # guards the four below
        self._stopping = False
        self._asked = self._answered = 0
        self._wall_cost = self._cpu_cost = 0.0
        self._warned = False
        self._start = time.monotonic()

    def __enter__(self) -> Telemetry:
        self._start = time.monotonic()
        if self.config.telemetry_interval > 0:
            self._thread = threading.Thread(target=self._loop, daemon=True, name="telemetry")
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._thread is not None:
            with self._wake:
                self._stopping = True
                self._wake.notify_all()
            self._thread.join(timeout=PATIENCE)
            if self._thread.is_alive():
                log.warning("telemetry: the GPU driver does not answer; the sampler is left behind")

    def step(self, images: int, seconds: float, data_seconds: float) -> None:
        """Count one training step: this rank's images, its time, the wait for data in it."""
        self._steps.add(images, seconds, data_seconds)

    def watch(self, model: Any) -> None:
        """Take a rank's own compute time from this model's DDP wrapper, if it has one."""
        self._model = model

    def snapshot(self) -> dict[str, Any]:
        """Return the latest record; empty before the first sample."""
        return dict(self._latest)

    def scalars(self) -> dict[str, float]:
        """Return the numbers of the latest record, for TensorBoard."""
        skip = {"time", "rank", "step", "device_index"}
        return {
            name: float(value)
            for name, value in self._latest.items()
            if isinstance(value, int | float) and name not in skip
        }

    def _sample(self) -> None:
        """Read everything once, write the record."""
        wall, cpu = time.perf_counter(), time.thread_time()
        record: dict[str, Any] = {
            "time": time.time(),
            "rank": self.world.rank,
            "step": self._first_step + self._steps.steps,
            "device_index": self.watched.index,
            "device_uuid": self.watched.uuid,
            **self.watched.read(),
            **read_allocator(self.device),
            **self._process.read(),
            **self._steps.take(),
        }
        record["device_energy_joules"] = self._energy.since_start(record)
        self._running.add(record)
        self._latest = record
        self._writer(record)
        self._wall_cost += time.perf_counter() - wall
        self._cpu_cost += time.thread_time() - cpu

    def _sample_safely(self) -> None:
        try:
            self._sample()
        except Exception as error:  # a fault in telemetry must not end a run of days
            if not self._warned:
                self._warned = True
                log.warning("telemetry: a sample failed (%s: %s)", type(error).__name__, error)

    def _loop(self) -> None:
        due = time.monotonic()
        while True:
            with self._wake:
                asked, last = self._asked, self._stopping
            if not last or self._age() > self.config.telemetry_interval / 4:
                self._sample_safely()
            with self._wake:
                self._answered = asked
                self._wake.notify_all()
                if last:
                    break
                due = max(due + self.config.telemetry_interval, time.monotonic())
                self._wake.wait_for(
                    lambda: self._stopping or self._asked > self._answered,
                    due - time.monotonic(),
                )
        self.watched.close()

    def _age(self) -> float:
        return time.time() - float(self._latest.get("time", 0.0))

    def _refresh(self) -> None:
        """Have the thread take the last steps into a sample; do not wait for a dead driver."""
        if self._thread is None or not self._thread.is_alive():
            return
        if self._age() > self.config.telemetry_interval / 4:
            with self._wake:
                self._asked += 1
                asked = self._asked
                self._wake.notify_all()
                self._wake.wait_for(lambda: self._answered >= asked, PATIENCE)

    def summary(self) -> dict[str, Any]:
        """Return this rank's summary so far; fields in ``docs/telemetry.md``."""
        self._refresh()
        figures = self._running.figures()
        images, energy = self._steps.images, self._energy.joules
        wall = time.monotonic() - self._start
        return {
            "rank": self.world.rank,
            "host": socket.gethostname(),
            "torch_device": str(self.device),
            "device_index": self.watched.index,
            "device_name": self.watched.name,
            "device_uuid": self.watched.uuid,
            "device_card": self.watched.card,
            "steps": self._steps.steps,
            "images": images,
            "seconds": wall,
            **self._steps.total(),
            **self._own_time(),
            **figures,
            "energy_joules": energy,
            "energy_source": self._energy.source,
            "images_per_joule": images / energy if energy else None,
            "sample_seconds": self._wall_cost / figures["samples"] if figures["samples"] else None,
            "sampler_cpu_share": self._cpu_cost / wall if wall > 0 else None,
        }

    def _own_time(self) -> dict[str, float | None]:
        """DDP's measure of this rank's compute and communication a step, in seconds."""
        names = ("forward_compute", "backward_compute", "backward_comm")
        read = getattr(self._model, "_get_ddp_logging_data", None)
        data = read() if read is not None else {}
        times = {name: data.get(f"avg_{name}_time", 0) / 1e9 or None for name in names}
        forward, backward = times["forward_compute"], times["backward_compute"]
        work = None
        if forward and backward and self._steps.steps:
            work = forward + backward + self._steps.data_seconds / self._steps.steps
        return {f"{name}_seconds": times[name] for name in names} | {"work_seconds": work}

    @staticmethod
    def table(summaries: list[Mapping[str, Any]]) -> Group:
        """Build the table of all ranks; see :func:`vae_dist.telemetry.table`."""
        return table(summaries)


def make_telemetry(
    config: TelemetryConfig,
    *,
    run_dir: Path,
    device: torch.device,
    world: World,
    writer: Writer | None = None,
    first_step: int = 0,
) -> Telemetry:
    """Build a rank's telemetry; where there is no GPU to read, device figures are None.

    Parameters
    ----------
    config : TelemetryConfig
        Interval, and which GPU to watch.
    run_dir : Path
        The run folder; the rank's ``telemetry*.jsonl`` is appended to there.
    device : torch.device
        Where the rank trains.
    world : World
        This rank and the number of ranks.
    writer : callable, optional
        Receives each record (from the sampler's thread) in place of the file.
    first_step : int
        Optimizer steps that the run had taken before, where it is resumed.
    """
    return Telemetry(
        config,
        device=device,
        watched=open_device(
            config.telemetry_device if config.telemetry_interval else "none", device
        ),
        world=world,
        writer=writer or LineFile(telemetry_file(Path(run_dir), world.rank)),
        first_step=first_step,
    )
