"""The training loop: fetch, step, log, validate, save."""

from __future__ import annotations

import contextlib
import math
import socket
import sys
import warnings
from collections.abc import Sequence

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
from vae_dist.train.accelerator import make_accelerator, on_main
from vae_dist.train.callbacks import Callback
from vae_dist.train.loaders import open_loaders
from vae_dist.train.opening import (
    COPY_SECONDS,
    closing,
    introduction,
    open_folder,
    wait_for_copy,
    write_run_files,
)
from vae_dist.train.readings import NonFiniteLoss
from vae_dist.train.reporting import Reporter, Status
from vae_dist.train.settings import Settings
from vae_dist.train.signals import EXIT_REQUEUE, Agreement, StopRequest
from vae_dist.train.state import TrainState
from vae_dist.train.step import train_step
from vae_dist.train.validation import reconstruction_panel, validate


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
        self.status = Status(self.folder, self.world)
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
            self.status.set("starting", world_size=self.world.size, host=socket.gethostname())

        on_main(self.is_main, take)
        if not self.is_main:
            self.folder.follow(resume)

    def _build(self) -> None:
        settings = self.settings
        self.loaders = open_loaders(self.data, settings, self.accelerator)
        self.status.set("starting", left_out=self.loaders.left_out)
        self.state = TrainState(
            settings, self.data.manifest, self.accelerator, self.loaders.train.steps_per_epoch
        )
        self.status.state = self.state
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
            self.report = Reporter(self.state, self.status, self.fit, self.callbacks, stack)
            for line in (
                *introduction(self.state, self.data, self.loaders, self.origin),
                *self.fit.lines(),
            ):
                self.report.sink.say(line)
            self.report.begin()
            try:
                stopped = self._loop()
            except NonFiniteLoss as error:
                raise explain(
                    error, self.data, self.settings, self.folder, self.loaders.left_out
                ) from None
            self.report.report_telemetry()
            ended = None if self.state.finished else self.stop.reason or "a signal"
            for line in closing(self.state, self.data, self.folder, ended):
                self.report.sink.say(line)
        done = self.state.finished
        code = 0 if done else EXIT_REQUEUE
        assert done or stopped
        self.status.set("done" if done else "stopped", exit_code=code, reason=self.stop.reason)
        return code

    def _loop(self) -> bool:
        stopped = self.agreement.poll()
        while not stopped and not self.state.finished:
            stopped = self._train_epoch()
            if not stopped and (self.state.epoch_complete or self.state.finished):
                stopped = self._end_epoch()
        stopped = self.agreement.settle() or stopped
        if self.saved_step != self.state.counters.step:
            self._save()
        return stopped

    def _train_epoch(self) -> bool:
        state, counters, run = self.state, self.state.counters, self.settings.run
        state.module.train()
        self.report.start_clock()
        batches = self.loaders.train.batches(counters.epoch, counters.step_in_epoch)
        for batch in self.report.timed(on_device(batches, state.device)):
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
                self.report.log(measured)
            every = self.settings.checkpoint.checkpoint_every
            if every and counters.step % every == 0 and not self.state.epoch_complete:
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
        state, counters, sink = self.state, self.state.counters, self.report.sink
        self.report.write()
        with state.averaged():
            figures = validate(state, self.loaders.val, self.agreement)
        if figures is None:
            return True
        whole = self.state.epoch_complete
        if whole:
            counters.epoch += 1
            counters.step_in_epoch = 0
        epoch = counters.epoch + counters.step_in_epoch / state.steps_per_epoch
        record = {"split": "val", "step": counters.step, "epoch": epoch} | figures
        self.report.validated(record)
        if whole:
            sink.epoch(counters.epoch, state.close_epoch(), figures)
        pictures = self.settings.log.tensorboard_images and self.settings.loss.of_pixels
        if self.is_main and pictures:
            with state.averaged():
                panel = reconstruction_panel(state, self.data)
            sink.images(panel, counters.step)
        by = self.settings.checkpoint.best_by
        score = figures["loss"] if by == "loss" else -figures[by]
        rate, improved = state.learning_rate(), state.judge(score)
        if state.learning_rate() != rate:
            sink.say(f"no better {by} for a while: the rate is now {state.learning_rate():g}")
        self._save(score if math.isfinite(score) else None, best=improved)
        if self.state.out_of_patience:
            sink.say(f"{counters.since_best} validations without a better {by}: stopping here")
        return self.agreement.poll()

    def _save(self, score: float | None = None, *, best: bool = False) -> None:
        self.report.write()
        config = self.settings.checkpoint
        if self.folder.mirror is not None:  # a copy of a checkpoint is one of its logs too
            self.report.sink.flush()
        target = save(self.state, self.folder, config, score=score, best=best)
        self.saved_step = self.state.counters.step
        self.report.saved(target)

    def fail(self, error: BaseException) -> None:
        """Note in the status that this process failed, whichever it is."""
        self.status.fail(error)
