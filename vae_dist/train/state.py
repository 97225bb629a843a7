"""What a run is at one moment: weights, optimizer, scheduler, counters and running sums."""

from __future__ import annotations

import math
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from data_pipeline.batch import Batch
from data_pipeline.folder.manifest import Manifest
from data_pipeline.load.augment import Augment
from data_pipeline.order import World, derive_seed
from data_pipeline.philox import Draws
from vae_dist.losses import balance
from vae_dist.models import build_model
from vae_dist.objective import Objective, Terms
from vae_dist.train.accelerator import prepare_module
from vae_dist.train.counters import Counters
from vae_dist.train.ema import Average
from vae_dist.train.graph import StepGraphs, why_not
from vae_dist.train.optim import build_optimizer, build_scheduler, set_rates
from vae_dist.train.readings import SUMS, Reading, first_bad, means
from vae_dist.train.settings import Settings, check_fit, crop_of_loader
from vae_dist.train.start import freeze

RUNNING_MEAN_GAMMA = 0.9

CACHED_PIXELS = 1 << 20
"""Pixels that a CPU works on at once: what is computed of them stays in its caches. A larger
batch is computed in parts, as under ``--accumulate``."""


class TrainState:
    """The state of a run, and the tensor work that a step and a validation share.

    Parameters
    ----------
    settings : Settings
    manifest : Manifest
        Of the data the run trains on.
    accelerator : Accelerator
    steps_per_epoch : int
        Optimizer steps in an epoch, the same on every process.
    """

    def __init__(
        self, settings: Settings, manifest: Manifest, accelerator: Accelerator, steps_per_epoch: int
    ) -> None:
        run = settings.run
        check_fit(settings, manifest)
        self.settings, self.manifest, self.accelerator = settings, manifest, accelerator
        self.values = manifest.values
        self.device = accelerator.device
        self.world = World(accelerator.process_index, accelerator.num_processes)
        self.steps_per_epoch = steps_per_epoch
        self.accumulate = run.accumulate  # or what --find-batch-size finds
        planned = run.epochs * steps_per_epoch
        self.total_steps = min(planned, run.max_steps or planned)
        torch.manual_seed(derive_seed(run.seed, "init"))
        model = build_model(
            settings.model, manifest.image_shape, len(manifest.classes), manifest.mean, manifest.std
        )
        self.objective = Objective(model, settings.loss).to(self.device)
        self.graphs: StepGraphs | None = None
        self.frozen = freeze(self.objective, settings.start.freeze)
        self.module: torch.nn.Module = self.objective
        self.parameters = [p for p in self.objective.parameters() if p.requires_grad]
        self.optimizer = build_optimizer(self.parameters, settings.optim, run.batch_size)
        self.counters = Counters(epoch=run.start_epoch, step=run.start_epoch * steps_per_epoch)
        self.scheduler = build_scheduler(
            self.optimizer,
            settings.optim,
            steps_per_epoch,
            self.total_steps,
            lambda: self.counters.reductions,
        )
        self.average = Average(self.objective, settings.optim.ema) if settings.optim.ema else None
        columns = settings.loss.importance_samples * model.latent_size
        self.noise = Draws(run.seed, "noise", columns, self.device)
        self.augment: Augment | None = None
        cropped = crop_of_loader(settings, manifest) is not None
        names = [n for n in settings.augmentations if not (cropped and n == "crop")]
        if names:
            self.augment = Augment(run.seed, names, settings.augment)
        self.denoises = bool(names) and settings.augment.augment_target == "original"
        """Whether what is reconstructed is another image than the encoder sees."""
        self.order: dict[str, Any] = {}
        self.trained_on: dict[str, Any] = {}  # of vae_dist.run.data
        self.best: float | None = None
        self.running = self._zeros(2)
        self.epoch_sums = self._zeros(len(SUMS))
        self.checks: list[Tensor] = []
        """A number of each step since the last log line, finite where its loss is."""
        self.kl_weight: float | Tensor = math.nan
        self.images_at_once = sys.maxsize
        if self.device.type == "cpu":
            self.images_at_once = max(1, CACHED_PIXELS // math.prod(manifest.image_shape))
        self._constants: dict[tuple[int, float], Tensor] = {}

    def wrap(self) -> None:
        """Compile the module, then wrap it for DDP and autocast; after the weights are loaded."""
        prepare_module(self.objective, self.settings.precision)
        with warnings.catch_warnings():
            # Accelerate itself always passes this option, which torch has renamed.
            warnings.filterwarnings("ignore", message=".*broadcast_buffers. is deprecated")
            # The optimizer is known to Accelerate, for its scaler, and called as it is: through
            # Accelerate each step would look for a package on the disk.
            self.module, _ = self.accelerator.prepare(self.objective, self.optimizer)
        reason = why_not(self.settings, self.world.size, self.device)
        if reason is None:
            self.graphs = StepGraphs(self.compute, self.parameters)
        elif self.settings.precision.cuda_graph == "on" and self.world.rank == 0:
            warnings.warn(f"--cuda-graph on has no effect: {reason}", stacklevel=2)

    def compute(
        self,
        images: Tensor,
        noise: Tensor,
        labels: Tensor,
        each: Tensor,
        *more: float | Tensor,
        value: bool,
    ) -> tuple[Terms, Tensor]:
        """Forward and backward of images that are computed at once.

        Parameters
        ----------
        images, noise, labels
            As `Objective.forward` takes them.
        each : Tensor
            (n,), weight of each image's loss.
        more : float or Tensor
            Where the run denoises, the images (n, C, H, W) to reconstruct; then one or two
            weights: beta, or what `balance_weights` gives.
        value : bool
            Whether the terms' values are wanted.

        Returns
        -------
        Terms
        Tensor
            (n,), each image's loss.
        """
        if self.settings.precision.compile_mode == "reduce-overhead":
            torch.compiler.cudagraph_mark_step_begin()
        targets, weights = (more[:1], more[1:]) if self.denoises else ((), more)
        terms = self.module(images, noise, labels, value, *targets)
        if len(weights) == 1:
            loss = self.objective.combine(terms, beta=weights[0])
        else:  # the running means take the place of the fixed weights
            loss = self.objective.combine(terms, beta=1.0, weights=(weights[0], weights[1]))
        if self.accelerator.scaler is None:
            loss.backward(each)
        else:
            self.accelerator.backward((loss * each).sum())
        return terms, loss

    def averaged(self) -> AbstractContextManager[None]:
        """With ``--ema``, the model has its averages for weights in here."""
        return nullcontext() if self.average is None else self.average.in_place()

    def judge(self, score: float) -> bool:
        """Take note of a validation; whether it is the best so far (the lowest score, never NaN).

        The score is the same on every process, and so is all that follows from it.
        """
        counters, optim = self.counters, self.settings.optim
        if math.isfinite(score) and (self.best is None or score < self.best):
            self.best = score
            counters.since_best = counters.since_reduction = 0
            return True
        counters.since_best += 1
        counters.since_reduction += 1
        if optim.schedule == "plateau" and counters.since_reduction >= optim.plateau_patience:
            counters.reductions += 1
            counters.since_reduction = 0
            set_rates(self.scheduler)
        return False

    @property
    def epoch_complete(self) -> bool:
        """Whether every step of the epoch under way is taken; its validation may be to come."""
        return self.counters.step_in_epoch >= self.steps_per_epoch

    @property
    def out_of_patience(self) -> bool:
        """Whether ``--patience`` validations went by without a better one."""
        patience = self.settings.run.patience
        return bool(patience) and self.counters.since_best >= patience

    @property
    def finished(self) -> bool:
        """Whether the run is done."""
        run, counters = self.settings.run, self.counters
        if counters.epoch >= run.epochs or self.out_of_patience:
            return True
        # An epoch that ends at the limit is validated first.
        return bool(run.max_steps) and counters.step >= run.max_steps and not self.epoch_complete

    def constant(self, count: int, value: float) -> Tensor:
        """A tensor (count,) of one value, fp32, made once."""
        key = count, value
        if key not in self._constants:
            self._constants[key] = torch.full((count,), value, device=self.device)
        return self._constants[key]

    @property
    def _wide(self) -> Any:
        return {"dtype": torch.float64, "device": self.device}

    def _zeros(self, size: int) -> Tensor:
        return torch.zeros(size, **self._wide)

    def reduce(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over processes, on each of them."""
        if self.world.size == 1:
            return tensor
        reduced = self.accelerator.reduce(tensor.clone(), reduction="sum")
        assert isinstance(reduced, Tensor)
        return reduced

    def to_images(self, batch: Batch, *, augment: bool) -> Tensor:
        """Pixels as float32 (n, C, H, W) in [0, 1] on the device, augmented if asked."""
        images = self.values.to_float(batch.images)
        if augment and self.augment is not None:
            images = self.augment(images, batch)
        if self.settings.precision.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        return images

    def balance_weights(self) -> tuple[Any, Any] | None:
        """Weights of both terms from their running means up to the step before, or None."""
        if not self.settings.loss.do_running_mean:
            return None
        recon, kl = self.running.float()
        return balance(recon, kl)

    def add_sums(self, sums: Tensor) -> None:
        """Add a step's sums to those of the epoch; nothing is read back.

        Parameters
        ----------
        sums : Tensor
            In the order of `SUMS`; the last two may not be there.
        """
        self.epoch_sums[: len(sums)].add_(sums)
        if self.settings.loss.do_running_mean:
            total = self.reduce(sums[:4])  # a process without images has no more
            means = total[1:3] / total[3].clamp(min=1)
            self.running = RUNNING_MEAN_GAMMA * self.running + (1 - RUNNING_MEAN_GAMMA) * means

    def begin_reading(self, sums: Tensor, *more: Tensor | float) -> Reading:
        """Begin to read the sums of a step, and more numbers with them.

        All processes must call this, and read what it returns.

        Parameters
        ----------
        sums : Tensor
            As `add_sums` takes them.
        more : Tensor or float
            Numbers that are the same on every process.
        """
        own = self._zeros(len(SUMS) + 1)
        own[: len(sums)] = sums
        if self.checks:
            own[-1] = torch.stack(self.checks).sum()
        extra = [
            m.double() if isinstance(m, Tensor) else torch.full((), m, **self._wide) for m in more
        ]
        numbers = torch.cat([self.reduce(own), *(m[None] for m in extra)])
        reading = Reading(numbers, self.checks, self.counters.step, self.reduce)
        self.checks = []
        return reading

    def close_epoch(self) -> dict[str, float]:
        """Means over the epoch; the same on every process."""
        total = self.reduce(self.epoch_sums)
        self.epoch_sums = torch.zeros_like(self.epoch_sums)
        return means(total.tolist())

    def check_finite(self) -> None:
        """Raise `NonFiniteLoss` naming the first bad step since the last log line.

        All processes must call this.
        """
        if self.checks and not math.isfinite(self.reduce(torch.stack(self.checks)).sum().item()):
            raise first_bad(self.checks, self.counters.step, self.reduce)

    def learning_rate(self) -> float:
        """The rate of the next step."""
        return float(self.scheduler.get_last_lr()[0])
