"""Train a VAE: ``vae-dist train``, ``accelerate launch launch/train.py``, ``torchrun ...``."""

from __future__ import annotations

import sys

if __name__ == "__main__":  # a launcher runs this file: put the project, not launch/, on the path
    sys.path[0] = sys.path[0] + "/.."

from vae_dist.train.signals import StopRequest

EARLY = StopRequest().install() if __name__ == "__main__" else None  # before the slow imports

import ctypes
import dataclasses
import functools
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg

from data_pipeline.errors import UserError
from launch.cli import guard
from launch.config import parse
from launch.processes import check_accelerate, check_device, join, may_speak

if TYPE_CHECKING:
    from data_pipeline.folder import DataFolder
    from vae_dist.train.settings import Settings


@dataclasses.dataclass(kw_only=True)
class TrainingDataConfig:
    """The images: a data folder, or the name of a set that is prepared if it is missing."""

    data: str | None = None
    """A data folder that `vae-dist prepare` wrote: a path or a URL. Without it data/DATASET is
    used, and prepared first if it is not there."""
    dataset: Annotated[str, arg(aliases=["--dataset-type"])] = "fmnist"
    """fmnist, mnist, kmnist, emnist-letters (or another of EMNIST) or digits."""
    source: str | None = None
    """Folder of the raw files, to prepare from."""


@dataclasses.dataclass(kw_only=True)
class ModeConfig:
    """What to do instead of training, with the model that --resume names."""

    evaluate: bool = False
    """Only compute the validation figures."""
    predict: bool = False
    """Write embeddings and reconstructions of the test images into the run folder."""
    predict_train: bool = False
    """Write those of the training images."""


PR_SET_PDEATHSIG = 1  # of linux/prctl.h
COMMON = (
    *("data", "dataset", "preset", "name", "epochs", "batch_size", "model_type", "latent_size"),
    *("lr", "kl_loss_weight", "seed", "mixed_precision", "compile", "resume", "overwrite"),
)
DESCRIPTION = "Train a variational autoencoder on the images of a data folder."


def main(argv: Sequence[str], stop: StopRequest | None = None) -> int:
    """Train; see ``vae-dist train --help``."""
    stop = stop or StopRequest().install()
    follow_launcher()
    processes = join()
    stop.quiet = not may_speak()
    check_accelerate(os.environ)
    from vae_dist.train.settings import RunConfig, Settings

    owners = {f.name: f.default_factory for f in dataclasses.fields(Settings)}
    configs: list[Any] = [TrainingDataConfig, ModeConfig, *owners.values()]
    parsed = parse("train", configs, argv, DESCRIPTION, COMMON)
    where, mode = parsed[:2]
    settings = Settings(**dict(zip(owners, parsed[2:], strict=True)))
    assert isinstance(settings.run, RunConfig)
    check_accelerate(os.environ, settings.precision.mixed_precision)
    check_device(processes, os.environ, _gpus(settings))
    if processes.note:
        print(f"vae-dist: {processes.note}", file=sys.stderr)
    stop.time_limit = settings.run.time_limit
    check_resume(settings.run.resume)
    data = find_data(where, settings)
    if mode.evaluate or mode.predict or mode.predict_train:
        from vae_dist.train.predict import predict

        return predict(
            settings, data, evaluate=mode.evaluate, test=mode.predict, train=mode.predict_train
        )
    from vae_dist.failures.lost_ranks import explain_lost_ranks, is_lost_ranks
    from vae_dist.failures.out_of_memory import explain, is_out_of_memory
    from vae_dist.train.trainer import Trainer

    trainer = None
    try:
        trainer = Trainer(settings, data, stop)
        return trainer.train()
    except BaseException as error:
        if trainer is not None and is_lost_ranks(error):
            timeout = settings.precision.collective_timeout
            lost = explain_lost_ranks(error, trainer.world.rank, trainer.world.size, timeout)
            trainer.fail(lost)
            raise lost from error
        if trainer is not None:
            trainer.fail(error)
        if is_out_of_memory(error):
            print(explain(error, settings, trainer.memory if trainer else None), file=sys.stderr)
            return 1
        raise


def follow_launcher() -> None:
    """Be sent SIGTERM when torch's launcher dies, also by SIGKILL: save and leave no orphan."""
    if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _gpus(settings: Settings) -> int:
    import torch

    cpu = settings.precision.no_cuda or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    return 0 if cpu else torch.cuda.device_count()


def check_resume(resume: str) -> None:
    """Refuse a ``--resume`` that names nothing on this machine, before data is prepared for it."""
    from data_pipeline.remote.reading import is_remote
    from vae_dist.run.which_checkpoint import resolve_checkpoint

    if resume in ("", "auto") or is_remote(resume):
        return
    if not Path(resume).exists():
        raise UserError(f"--resume {resume}: no such run or checkpoint")
    if Path(resume).is_dir():
        resolve_checkpoint(Path(resume), "last")


def find_data(where: TrainingDataConfig, settings: Settings) -> DataFolder:
    """Open the data folder; prepare a known set that is not there yet.

    Of several processes on a node one prepares, under a lock, while the others wait for it.
    """
    from data_pipeline.folder import open_data

    if where.data is not None:
        return open_data(where.data, config=settings.loader)
    folder = Path("data") / where.dataset
    if not (folder / "manifest.json").is_file():
        from launch.prepare import prepare_missing

        prepare_missing(where.dataset, folder, source=where.source)
    return open_data(str(folder), config=settings.loader)


if __name__ == "__main__":
    sys.exit(guard(functools.partial(main, stop=EARLY), sys.argv[1:]))
