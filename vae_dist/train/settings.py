"""The settings of one training run: the configuration of each part, side by side."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from data_pipeline.checks import AtLeast, PlainName, check_fields
from data_pipeline.errors import UserError
from data_pipeline.folder.manifest import Manifest
from data_pipeline.load.augment import ARTICLE2018, AugmentConfig
from data_pipeline.load.config import LoaderConfig
from data_pipeline.load.crop import Crop
from data_pipeline.redact import scrubbed
from data_pipeline.remote.reading import is_remote, join
from vae_dist.losses import LossConfig
from vae_dist.memory.estimate import MemoryConfig
from vae_dist.mirror.config import MirrorConfig
from vae_dist.mirror.places import run_place, split_address
from vae_dist.models import ModelConfig
from vae_dist.run.checkpoint import CheckpointConfig
from vae_dist.sinks import LogConfig
from vae_dist.telemetry import TelemetryConfig
from vae_dist.train.accelerator import PrecisionConfig
from vae_dist.train.optim import OptimConfig
from vae_dist.train.start import StartConfig


@dataclasses.dataclass(kw_only=True)
class RunConfig:
    """The run: its name, its length, where it starts and when it stops."""

    name: Annotated[str, PlainName(), arg(aliases=["--lognumber"])] = "test_model"
    """Name of the run; it is kept in RUNS_DIR/NAME."""
    runs_dir: str = "runs"
    """Folder of all runs: a path, or an address (s3://, gs://, hf://) that the run is copied to."""
    seed: int = 42
    """Everything random follows from this and from the counters."""
    epochs: Annotated[int, AtLeast(1)] = 30
    """Train up to this many epochs, those before a resume included."""
    start_epoch: Annotated[int, AtLeast(0)] = 0
    """Count the first epoch as this one (a resume brings its own)."""
    batch_size: Annotated[int, AtLeast(1)] = 64
    """Images in a global batch, over all processes."""
    accumulate: Annotated[int, AtLeast(1)] = 1
    """Compute each process's part of a batch in this number of micro-batches; the result is the
    same."""
    max_steps: Annotated[int, AtLeast(0)] = 0
    """End after this number of optimizer steps, with a validation; 0: no limit."""
    patience: Annotated[int, AtLeast(0)] = 0
    """End after this number of validations in a row that did not improve on the best one, by
    --best-by; 0: never."""
    time_limit: Annotated[float, AtLeast(0)] = 0.0
    """Stop with a checkpoint and exit code 75 after this number of seconds; 0: no limit."""
    resume: str = ""
    """auto (the checkpoint that the run calls last, or from the beginning); a run folder or a
    checkpoint of one, or its address, whose settings become the defaults; or a .pth.tar of the 2018
    program."""
    status_file: Path | None = None
    """Keep a copy of status.json here too, where a batch script can find it."""
    allow_other_data: bool = False
    """Use the model that --resume names on other data than it was trained on."""
    overwrite: bool = False
    """Start over where RUNS_DIR/NAME holds a run already."""
    expect_world_size: Annotated[int, AtLeast(0)] = 0
    """Fail at once unless there is this number of processes; 0: any number."""
    max_bad_steps: Annotated[int, AtLeast(0)] = 0
    """Skip at most this number of steps whose gradient is NaN or infinite (costs a
    synchronisation a step); 0: the first one stops the run."""
    do_augs: bool = False
    """The 2018 program's flag for --augment flip,rotate."""
    profile: bool = False
    """Write a torch profiler trace of a few steps into the run folder."""

    def __post_init__(self) -> None:
        check_fields(self)
        self.runs_dir = str(self.runs_dir)  # programs give a Path
        if self.start_epoch >= self.epochs:
            raise UserError(
                f"--start-epoch {self.start_epoch}: must be below --epochs {self.epochs}"
            )

    @property
    def address(self) -> str:
        """The run's in an object store; empty for a run of this machine's file systems."""
        return join(self.runs_dir, self.name) if is_remote(self.runs_dir) else ""


def check_fit(settings: Settings, manifest: Manifest) -> None:
    """Refuse settings that need pixels for data that are none, and the other way round."""
    kind = settings.loss.image_loss_type
    denoises = settings.augment.augment_target == "original"
    if denoises and crop_of_loader(settings, manifest) is not None:
        raise UserError(
            f"--augment-target original: crops of {manifest.name} are cut where its pictures are "
            "decoded (layout encoded), and the rest of a picture is not kept; Fix: without crop in "
            "--augment, or prepare with --layout block"
        )
    if manifest.values.are_pixels:
        if not settings.loss.of_pixels:
            raise UserError(
                f"--image-loss-type {kind}: is for data that are no pixels, {manifest.name} holds "
                "pixels; Fix: --image-loss-type mse"
            )
        return
    what = f"{manifest.name} holds no pixels (its manifest has no scale)"
    if settings.loss.of_pixels:
        raise UserError(f"--image-loss-type {kind}: {what}; Fix: --image-loss-type gaussian")
    if settings.augmentations:
        flag = "--do-augs" if settings.run.do_augs else "--augment"
        raise UserError(f"{flag}: {what}; leave it out")
    if settings.checkpoint.best_by == "ssim":
        raise UserError(f"--best-by ssim: {what}; Fix: --best-by loss")
    if settings.loss.prior == "vamp":
        raise UserError(f"--prior vamp: learns pictures, and {what}; Fix: --prior mixture")


def crop_of_loader(settings: Settings, manifest: Manifest) -> Crop | None:
    """The crops of ``--augment crop`` where they are cut from pictures of any size."""
    if manifest.layout != "encoded" or "crop" not in settings.augmentations:
        return None
    return Crop(settings.run.seed, *settings.augment.crop_ranges)


@dataclasses.dataclass(kw_only=True)
class Settings:
    """Everything `Trainer` takes, one field for each owner."""

    run: RunConfig = dataclasses.field(default_factory=RunConfig)
    start: StartConfig = dataclasses.field(default_factory=StartConfig)
    loader: LoaderConfig = dataclasses.field(default_factory=LoaderConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    precision: PrecisionConfig = dataclasses.field(default_factory=PrecisionConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    memory: MemoryConfig = dataclasses.field(default_factory=MemoryConfig)
    telemetry: TelemetryConfig = dataclasses.field(default_factory=TelemetryConfig)
    log: LogConfig = dataclasses.field(default_factory=LogConfig)
    mirror: MirrorConfig = dataclasses.field(default_factory=MirrorConfig)

    @property
    def folder(self) -> Path:
        """The run folder, on this machine."""
        if self.run.address:
            return run_place(self.run.address, self.mirror.runs_cache)
        return Path(self.run.runs_dir.removeprefix("file://")) / self.run.name

    @property
    def augmentations(self) -> tuple[str, ...]:
        """What is done to training images."""
        return ARTICLE2018 if self.run.do_augs else self.augment.names

    def fitted(self, manifest: Manifest) -> Settings:
        """The same for this data: with the model that ``--model-type auto`` stands for."""
        settings = copy.copy(self)  # not made anew, which would repeat its warnings
        settings.model = self.model.fitted(manifest.image_shape)
        return settings

    def here(self, resume: str) -> str:
        """What ``--resume`` names, as a path where it is of this run's own address."""
        if self.run.address and is_remote(resume):
            run, within = split_address(resume)
            if run == self.run.address:
                return str(self.folder / within)
        return resume

    def __post_init__(self) -> None:
        graphs = self.precision.compile and self.precision.compile_mode == "reduce-overhead"
        if graphs and (self.run.accumulate > 1 or self.memory.find_batch_size):
            flag = "--find-batch-size" if self.memory.find_batch_size else "--accumulate"
            raise UserError(
                f"--compile-mode reduce-overhead with {flag}: its CUDA graphs hold one micro-batch "
                "at a time; Fix: --compile-mode default, or --accumulate 1"
            )
        if self.run.do_augs and self.augment.augment:
            raise UserError(
                f"--augment {self.augment.augment} with --do-augs True: --do-augs stands for "
                "--augment flip,rotate; Fix: --do-augs False, and name flip and rotate in --augment"
            )
        if self.augment.augment_target == "original" and not self.augmentations:
            warnings.warn("--augment-target has no effect without --augment", stacklevel=3)
        if self.loader.data_device == "cuda" and self.precision.no_cuda:
            raise UserError("--data-device cuda: --no-cuda True keeps this run off the GPU")
        if self.start.init_from and self.run.resume not in ("", "auto"):
            raise UserError(
                f"--init-from {self.start.init_from} with --resume {self.run.resume}: weights come "
                "from one of them; Fix: give one of them only"
            )
        if self.loss.do_running_mean and self.loss.weighted:
            warnings.warn(
                "--do-running-mean sets both weights by itself: --img-loss-weight, "
                "--kl-loss-weight and --kl-schedule have no effect",
                stacklevel=3,
            )

    @classmethod
    def of(cls, **values: Any) -> Settings:
        """Settings by the names of the flags: ``Settings.of(model_type="fc", epochs=10)``.

        Raises
        ------
        UserError
            If there is no such setting, or a value is wrong.
        """
        groups: dict[str, Any] = {o.name: o.default_factory for o in dataclasses.fields(cls)}
        given: dict[str, Any] = {}
        for name, group in groups.items():
            fields = [field.name for field in dataclasses.fields(group)]
            own = {field: values.pop(field) for field in fields if field in values}
            given[name] = group(**own)
        if values:
            raise UserError(f"there is no setting {', '.join(values)} (vae-dist train --help)")
        return cls(**given)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as ``config.json`` holds them: no secrets of addresses."""
        return {
            owner.name: {
                k: str(v) if isinstance(v, Path) else scrubbed(v) for k, v in values.items()
            }
            for owner in dataclasses.fields(self)
            for values in [dataclasses.asdict(getattr(self, owner.name))]
        }
