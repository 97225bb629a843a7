"""What a training tells: figures, the status of the run, its callbacks; never what it computes."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.batch import Batch
from data_pipeline.errors import UserError
from data_pipeline.order import World
from vae_dist.memory.plan import Fit
from vae_dist.run.folder import RunFolder
from vae_dist.sinks import NullSink, Sink, open_sinks
from vae_dist.telemetry import compare, make_telemetry, table
from vae_dist.train.callbacks import Callback
from vae_dist.train.opening import make_profiler
from vae_dist.train.readings import Reading
from vae_dist.train.state import TrainState
from vae_dist.train.step import Measured

STATUS_SECONDS = 1.0
"""How often ``status.json`` is written while the run goes on."""


class Status:
    """Writes ``status.json`` of a run.

    Parameters
    ----------
    folder : RunFolder
    world : World
        Rank 0 writes the status; every rank notes its own failure.
    """

    def __init__(self, folder: RunFolder, world: World) -> None:
        self.folder, self.world = folder, world
        self.state: TrainState | None = None
        """Where the run stands, once it is known."""
        self.told = -math.inf

    def set(self, state: str, **fields: Any) -> None:
        """Write a state with its step and epoch; nothing on other ranks than 0."""
        self.told = time.monotonic()
        if self.world.rank != 0:
            return
        if self.state is not None:
            counters = self.state.counters
            fields |= {"step": counters.step, "epoch": counters.epoch}
            fields["total_steps"] = self.state.total_steps
        self.folder.set_status(state=state, **fields)

    def goes_on(self) -> None:
        """Say that the run goes on, if that was not said just now."""
        if time.monotonic() - self.told > STATUS_SECONDS:
            self.set("running", durable=False)

    def fail(self, error: BaseException) -> None:
        """Note that this process failed, whichever it is."""
        with contextlib.suppress(UserError):  # a full disk; the first error is the one to tell
            self.folder.set_status(
                state="failed",
                exit_code=2 if isinstance(error, UserError) else 1,
                rank=self.world.rank,
                reason=f"{type(error).__name__}: {error}",
            )


class Reporter:
    """Takes the figures of a training to its sinks, telemetry and callbacks.

    Parameters
    ----------
    state : TrainState
    status : Status
    fit : Fit
        What is known of memory.
    callbacks : sequence of Callback
        Empty but on the main process.
    stack : ExitStack
        Closes what is opened here.
    """

    def __init__(
        self,
        state: TrainState,
        status: Status,
        fit: Fit,
        callbacks: Sequence[Callback],
        stack: contextlib.ExitStack,
    ) -> None:
        self.state, self.status, self.fit = state, status, fit
        self.callbacks, self._stack = callbacks, stack
        self.is_main = state.world.rank == 0
        path, settings, step = status.folder.path, state.settings, state.counters.step
        self.sink: Sink = NullSink()
        if self.is_main:
            self.sink = open_sinks(settings, state.accelerator, path, step, state.total_steps)
            stack.callback(self.sink.close)
        self.telemetry = stack.enter_context(
            make_telemetry(
                settings.telemetry,
                run_dir=path,
                device=state.device,
                world=state.world,
                first_step=step,
            )
        )
        self.telemetry.watch(state.module)
        self.profiler = stack.enter_context(make_profiler(settings, path))
        self._unwritten: tuple[Reading, dict[str, Any]] | None = None
        self._watched: dict[str, float] = {}
        self.start_clock()

    def begin(self) -> None:
        """Tell the callbacks that training begins; its end, also by an error, when all is closed."""
        for each in self.callbacks:
            self._stack.callback(each.on_end)
            each.on_start()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass batches on, and note how long each step and its data took."""
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            if batch is None:
                return
            images, waited = len(batch), time.perf_counter() - asked
            try:
                yield batch
            finally:  # also where the loop ends with this step
                self.profiler.step()
                seconds = time.perf_counter() - asked
                self.telemetry.step(images=images, seconds=seconds, data_seconds=waited)
            if taken := self.fit.after_step():
                self.sink.say(taken)

    def start_clock(self) -> None:
        """Count the images per second of the next log line from here on."""
        self._clock, self._clock_step = time.perf_counter(), self.state.counters.step

    def log(self, measured: Measured) -> None:
        """Begin to read the step's figures; write those of the log line before."""
        state, counters = self.state, self.state.counters
        self.write()
        norm = math.nan if measured.norm is None else measured.norm
        reading = state.begin_reading(measured.sums, state.kl_weight, norm)
        steps, now = counters.step - self._clock_step, time.perf_counter()
        figures: dict[str, Any] = {
            "split": "train",
            "step": counters.step,
            "epoch": counters.epoch + counters.step_in_epoch / state.steps_per_epoch,
            "lr": state.learning_rate(),
            "skipped_steps": counters.skipped + counters.bad_steps,
            "images_per_second": steps * state.settings.run.batch_size / (now - self._clock),
        }
        self._unwritten = reading, figures
        self.start_clock()
        if state.device.type == "cpu":  # nothing to wait for
            self.write()

    def write(self) -> None:
        """Write figures that were not written yet; all processes must call this."""
        if self._unwritten is None:
            return
        (reading, figures), self._unwritten = self._unwritten, None
        means, (beta, norm) = reading.read()
        figures |= means | {"beta": beta, "grad_norm": norm}
        self.sink.record(figures)
        for each in self.callbacks:
            each.on_log(dict(figures))
        watched = self.telemetry.scalars()
        if watched != self._watched:  # they are sampled by the clock, not by the step
            self._watched = watched
            self.sink.scalars({f"telemetry/{n}": v for n, v in watched.items()}, figures["step"])
        self.status.goes_on()

    def validated(self, record: dict[str, Any]) -> None:
        """Write the figures of a validation."""
        self.sink.record(record)
        for each in self.callbacks:
            each.on_validation(dict(record))

    def saved(self, checkpoint: Path) -> None:
        """Tell of a complete checkpoint."""
        for each in self.callbacks:
            each.on_checkpoint(checkpoint)
        self.status.set("running", checkpoint=checkpoint.name)

    def report_telemetry(self) -> None:
        """Gather every process's summary; show the table, keep the figures in the status."""
        from accelerate.utils import gather_object

        summaries = gather_object([self.telemetry.summary()])
        if self.is_main:
            self.sink.show(table(summaries))
            self.status.folder.set_status(telemetry=compare(summaries), memory=self.fit.as_dict())
