"""The training loop: fetch, step, log, validate, save."""

from __future__ import annotations

import contextlib
import math
import socket
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipeline.batch import Batch
from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder
from data_pipeline.load.prefetch import on_device
from data_pipeline.order import World
from vae_dist.failures.lost_ranks import explain_lost_ranks, is_lost_ranks
from vae_dist.failures.non_finite import explain
from vae_dist.failures.out_of_memory import OutOfMemoryObserver
from vae_dist.memory.allocator import keep_freed_memory
from vae_dist.memory.plan import Fit
from vae_dist.run.history import best_score
from vae_dist.run.resume import restore, save
from vae_dist.sinks import NullSink, Sink, open_sinks
from vae_dist.telemetry import compare, make_telemetry, table
from vae_dist.train.accelerator import make_accelerator, on_main
from vae_dist.train.callbacks import Callback
from vae_dist.train.loaders import open_loaders
from vae_dist.train.opening import (
    COPY_SECONDS,
    closing,
    introduction,
    make_profiler,
    open_folder,
    wait_for_copy,
    write_run_files,
)
from vae_dist.train.settings import Settings
from vae_dist.train.signals import EXIT_REQUEUE, Agreement, StopRequest
from vae_dist.train.state import NonFiniteLoss, Reading, TrainState
from vae_dist.train.step import Measured, train_step
from vae_dist.train.validation import reconstruction_panel, validate

STATUS_SECONDS = 1.0
"""How often ``status.json`` is written while the run goes on."""


class Trainer:
    """Trains one variational autoencoder.

    Parameters
    ----------
    settings : Settings
    data : DataFolder
        Must hold the splits ``train`` and ``val``.
    stop : StopRequest, optional
        Asked at every step, in training and in validation. Without one the training knows its
        time limit alone and installs no signal handlers, as a notebook wants it.
    callbacks : sequence of Callback
        Called on the main process, in this order.

    Raises
    ------
    ValueError
        If the world size is not the expected one, the run folder is taken, or what
        ``--resume`` names does not fit.
    """

    def __init__(
        self,
        settings: Settings,
        data: DataFolder,
        stop: StopRequest | None = None,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        run = settings.run
        self.settings = settings = settings.fitted(data.manifest)
        self.data = data
        self.stop = stop or StopRequest(run.time_limit)
        self.folder = open_folder(settings)
        self.accelerator = make_accelerator(
            settings.precision, self.folder.path, settings.log.tracker
        )
        self.world = World(self.accelerator.process_index, self.accelerator.num_processes)
        if run.expect_world_size not in (0, self.world.size):
            raise UserError(
                f"--expect-world-size {run.expect_world_size}: there are {self.world.size} "
                "processes; look at the launcher's --num_processes or --nproc-per-node"
            )
        self.is_main = self.accelerator.is_main_process
        self.callbacks = callbacks if self.is_main else ()
        self.agreement = Agreement(
            self.stop, self.world, timeout=settings.precision.collective_timeout
        )
        self._take_folder()
        try:
            self._build()
        except BaseException as error:
            lost = None
            if is_lost_ranks(error):
                timeout = settings.precision.collective_timeout
                lost = explain_lost_ranks(error, self.world.rank, self.world.size, timeout)
            self.fail(lost or error)
            self.folder.release()
            if lost is not None:
                raise lost from error
            raise

    def _take_folder(self) -> None:
        """Make the run folder on the main process; if it is taken, fail on all of them."""
        run = self.settings.run

        resume = self.settings.here(run.resume)

        def take() -> None:
            self.folder.take(resume=resume, overwrite=run.overwrite)
            if run.overwrite and self.folder.owns(resume):
                warnings.warn(
                    f"--overwrite True has no effect with --resume {run.resume}, which goes on with "
                    "the run that is there; Fix: leave out --resume to start over",
                    stacklevel=2,
                )
            self._status("starting", world_size=self.world.size, host=socket.gethostname())

        on_main(self.is_main, take)
        if not self.is_main:
            self.folder.follow(resume)

    def _build(self) -> None:
        settings = self.settings
        self.loaders = open_loaders(self.data, settings, self.accelerator)
        self.train_loader, self.val_loader = self.loaders.train, self.loaders.val
        self._status("starting", left_out=self.loaders.left_out)
        self.state = TrainState(
            settings, self.data.manifest, self.accelerator, self.train_loader.steps_per_epoch
        )
        self.state.order = self.loaders.order
        self.origin = restore(self.state, self.folder.checkpoints, self.data)
        self.fit = Fit(self.state)  # may run out of memory on purpose
        if settings.precision.compile_mode == "reduce-overhead" and settings.run.accumulate > 1:
            raise UserError(
                f"--compile-mode reduce-overhead: the gradients of {settings.run.accumulate} "
                "micro-batches cannot be summed in the memory of one CUDA graph; Fix: --accumulate 1 "
                "(without --find-batch-size), or --compile-mode default"
            )
        self.memory = OutOfMemoryObserver(
            self.folder.path, self.world.rank, self.state.device, settings.memory
        ).attach()
        if self.state.device.type == "cpu":
            keep_freed_memory()
        self.state.wrap()
        self.saved_step = -1
        self._unwritten: tuple[Reading, dict[str, Any]] | None = None
        self._watched: dict[str, float] = {}
        on_main(self.is_main, self._begin)

    def _begin(self) -> None:
        """Make the folder agree with the state, once every process has read its checkpoint."""
        counters = self.state.counters
        own = self.folder.owns(self.settings.here(self.settings.run.resume))
        if told := self.folder.begin(counters.step, counters.epoch, own=own):
            self.origin += f"; {told}"
            if self.state.best is not None:
                self.state.best = best_score(self.folder.checkpoints, self.state.best)
        write_run_files(self.folder, self.state, self.data)

    def train(self) -> int:
        """Train to the end or to a stop request.

        Returns
        -------
        int
            0 if the run is done, 75 if it was stopped after a complete checkpoint, 2 if it is done
            and its copy in an object store is not.

        Raises
        ------
        NonFiniteLoss
            If a loss was NaN or infinite; names the step and the images of its batch.
        """
        code = 1
        try:
            code = self._train()
            wait_for_copy(self.folder, self.is_main)
        except Exception as error:
            self.fail(error)
            while not self.folder.finish(COPY_SECONDS):  # alone: the others may be lost
                pass
            raise
        finally:
            missing = self.folder.release()
            if missing:
                print(f"vae-dist: error: {missing}", file=sys.stderr, flush=True)
        return 2 if missing and code == 0 else code

    def _train(self) -> int:
        with contextlib.ExitStack() as stack:
            self.sink: Sink = NullSink()
            if self.is_main:
                self.sink = open_sinks(
                    self.settings,
                    self.accelerator,
                    self.folder.path,
                    self.state.counters.step,
                    self.state.total_steps,
                )
                stack.callback(self.sink.close)
            self.telemetry = stack.enter_context(
                make_telemetry(
                    self.settings.telemetry,
                    run_dir=self.folder.path,
                    device=self.state.device,
                    world=self.world,
                    first_step=self.state.counters.step,
                )
            )
            self.telemetry.watch(self.state.module)
            self.profiler = stack.enter_context(make_profiler(self.settings, self.folder.path))
            for line in (
                *introduction(self.state, self.data, self.loaders, self.origin),
                *self.fit.lines(),
            ):
                self.sink.say(line)
            for each in self.callbacks:
                stack.callback(each.on_end)  # also after an error
                each.on_start()
            try:
                stopped = self._loop()
            except NonFiniteLoss as error:
                raise explain(
                    error, self.data, self.settings, self.folder, self.loaders.left_out
                ) from None
            self._report_telemetry()
            ended = None if self._finished() else self.stop.reason or "a signal"
            for line in closing(self.state, self.data, self.folder, ended):
                self.sink.say(line)
        done = self._finished()
        code = 0 if done else EXIT_REQUEUE
        assert done or stopped
        self._status("done" if done else "stopped", exit_code=code, reason=self.stop.reason)
        return code

    def _loop(self) -> bool:
        stopped = self.agreement.poll()
        while not stopped and not self._finished():
            stopped = self._train_epoch()
            if not stopped and (self._epoch_complete() or self._finished()):
                stopped = self._end_epoch()
        stopped = self.agreement.settle() or stopped
        if self.saved_step != self.state.counters.step:
            self._save()
        return stopped

    def _train_epoch(self) -> bool:
        state, counters, run = self.state, self.state.counters, self.settings.run
        state.module.train()
        self._start_clock()
        batches = self.train_loader.batches(counters.epoch, counters.step_in_epoch)
        for batch in self._timed(on_device(batches, state.device)):
            log = self.settings.log
            log_now = (counters.step + 1) % log.log_every == 0
            # The last step too: an epoch has figures, however few steps it has.
            measure = log_now or counters.step_in_epoch + 1 == state.steps_per_epoch
            with_ssim = (counters.step + 1) % log.ssim_every == 0
            measured = train_step(state, batch, measure=measure, with_ssim=with_ssim)
            counters.step += 1
            counters.step_in_epoch += 1
            if log_now:
                assert measured is not None
                self._log(measured)
            every = self.settings.checkpoint.checkpoint_every
            if every and counters.step % every == 0 and not self._epoch_complete():
                self._save()
            if self.agreement.poll():
                return True
            if run.max_steps and counters.step >= run.max_steps:
                break
        return False

    def _end_epoch(self) -> bool:
        """Validate, keep the best, save. True if the run was asked to stop meanwhile.

        Where ``--max-steps`` ends the run within an epoch, that epoch stays open.
        """
        state, counters = self.state, self.state.counters
        self._write_log()
        with state.averaged():
            figures = validate(state, self.val_loader, self.agreement)
        if figures is None:
            return True
        whole = self._epoch_complete()
        if whole:
            counters.epoch += 1
            counters.step_in_epoch = 0
        epoch = counters.epoch + counters.step_in_epoch / state.steps_per_epoch
        record = {"split": "val", "step": counters.step, "epoch": epoch} | figures
        self.sink.record(record)
        for each in self.callbacks:
            each.on_validation(dict(record))
        if whole:
            self.sink.epoch(counters.epoch, state.close_epoch(), figures)
        pictures = self.settings.log.tensorboard_images and self.settings.loss.of_pixels
        if self.is_main and pictures:
            with state.averaged():
                panel = reconstruction_panel(state, self.data)
            self.sink.images(panel, counters.step)
        by = self.settings.checkpoint.best_by
        score = figures["loss"] if by == "loss" else -figures[by]
        rate, improved = state.learning_rate(), state.judge(score)
        if state.learning_rate() != rate:
            self.sink.say(f"no better {by} for a while: the rate is now {state.learning_rate():g}")
        self._save(score if math.isfinite(score) else None, best=improved)
        if self._out_of_patience():
            self.sink.say(f"{counters.since_best} validations without a better {by}: stopping here")
        return self.agreement.poll()

    def _finished(self) -> bool:
        limit, counters = self.settings.run.max_steps, self.state.counters
        if counters.epoch >= self.settings.run.epochs or self._out_of_patience():
            return True
        # An epoch that ends at the limit is validated first.
        return bool(limit) and counters.step >= limit and not self._epoch_complete()

    def _out_of_patience(self) -> bool:
        patience = self.settings.run.patience
        return bool(patience) and self.state.counters.since_best >= patience

    def _epoch_complete(self) -> bool:
        return self.state.counters.step_in_epoch >= self.state.steps_per_epoch

    def _timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Note how long each step and its data took."""
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

    def _start_clock(self) -> None:
        self._clock, self._clock_step = time.perf_counter(), self.state.counters.step

    def _log(self, measured: Measured) -> None:
        """Begin to read the step's figures; write those of the log line before."""
        state, counters = self.state, self.state.counters
        self._write_log()
        norm = math.nan if measured.norm is None else measured.norm
        reading = state.begin_reading(measured.sums, state.kl_weight, norm)
        steps, now = counters.step - self._clock_step, time.perf_counter()
        figures: dict[str, Any] = {
            "split": "train",
            "step": counters.step,
            "epoch": counters.epoch + counters.step_in_epoch / state.steps_per_epoch,
            "lr": state.learning_rate(),
            "skipped_steps": counters.skipped + counters.bad_steps,
            "images_per_second": steps * self.settings.run.batch_size / (now - self._clock),
        }
        self._unwritten = reading, figures
        self._start_clock()
        if state.device.type == "cpu":  # nothing to wait for
            self._write_log()

    def _write_log(self) -> None:
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
        if time.monotonic() - self._status_told > STATUS_SECONDS:
            self._status("running", durable=False)

    def _save(self, score: float | None = None, *, best: bool = False) -> None:
        self._write_log()
        config = self.settings.checkpoint
        if self.folder.mirror is not None:  # a copy of a checkpoint is one of its logs too
            self.sink.flush()
        target = save(self.state, self.folder, config, score=score, best=best)
        self.saved_step = self.state.counters.step
        for each in self.callbacks:
            each.on_checkpoint(target)
        self._status("running", checkpoint=target.name)

    def fail(self, error: BaseException) -> None:
        """Note in the status that this process failed, whichever it is."""
        with contextlib.suppress(UserError):  # a full disk; the first error is the one to tell
            self.folder.set_status(
                state="failed",
                exit_code=2 if isinstance(error, UserError) else 1,
                rank=self.world.rank,
                reason=f"{type(error).__name__}: {error}",
            )

    def _status(self, state: str, **fields: Any) -> None:
        self._status_told = time.monotonic()
        if self.is_main:
            if hasattr(self, "state"):
                counters = self.state.counters
                fields |= {"step": counters.step, "epoch": counters.epoch}
                fields["total_steps"] = self.state.total_steps
            self.folder.set_status(state=state, **fields)

    def _report_telemetry(self) -> None:
        """Gather every process's summary; show the table, keep the figures in the status."""
        from accelerate.utils import gather_object

        summaries = gather_object([self.telemetry.summary()])
        if self.is_main:
            self.sink.show(table(summaries))
            self.folder.set_status(telemetry=compare(summaries), memory=self.fit.as_dict())
