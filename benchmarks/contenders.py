"""Training loops that `benchmarks.train` times, each in a process of its own, turn by turn.

``python -m benchmarks.contenders NAME DATA MODEL BATCH`` trains without an end. It says
``ready`` when it is warm; for each line ``SECONDS`` on its input it trains that long and answers
with one JSON object; between turns it waits. What is timed is from one batch to the next within
an epoch, so that nobody's validation counts.
"""

from __future__ import annotations

import importlib
import os
import runpy
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.turns import Turns, through_data_loader
from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder, open_data
from vae_dist.models import ModelConfig, VAEModel, build_model

LATENTS = 10


def images_of(data: DataFolder) -> Tensor:
    """The training images, uint8 (n, C, H, W).

    Raises
    ------
    UserError
        For other values: the other libraries are given bytes.
    """
    if not data.manifest.values.are_bytes:
        raise UserError(
            f"{data.path}: holds {data.manifest.values}; bench compares on 8-bit images"
        )
    return torch.from_numpy(np.ascontiguousarray(data.arrays("train").images))


def model_of(data: DataFolder, name: str) -> VAEModel:
    """The model that all loops train."""
    torch.manual_seed(0)
    manifest = data.manifest
    config = ModelConfig(model_type=name, latent_size=LATENTS)
    return build_model(config, manifest.image_shape, len(manifest.classes))


def device() -> torch.device:
    """Where the loops run."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def negative_elbo(model: VAEModel, images: Tensor) -> Tensor:
    """The objective as a textbook writes it, summed over the batch."""
    mu, logvar = model.infer(images, None)
    z = mu + torch.randn_like(mu) * torch.exp(0.5 * logvar)
    logits = model.generate(z)
    recon = F.binary_cross_entropy_with_logits(logits, images, reduction="sum")
    return recon - 0.5 * (1 + logvar - mu.pow(2) - logvar.exp()).sum()


def bare(turns: Turns, data: DataFolder, name: str, batch_size: int, compiled: bool) -> None:
    """The same mathematics in ten lines of plain PyTorch."""
    where = device()
    model, images = model_of(data, name).to(where), images_of(data).to(where)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    loss_of: Callable[..., Tensor] = negative_elbo
    if compiled:
        loss_of = torch.compile(negative_elbo)
    while True:
        rows = torch.randperm(len(images), device=where).split(batch_size)
        for x in turns.over(images[r] for r in rows):
            optimizer.zero_grad()
            (loss_of(model, x.float() / 255) / len(x)).backward()
            optimizer.step()


def ours(turns: Turns, data: DataFolder, name: str, batch_size: int, loader: str) -> None:
    """This program as it comes: telemetry, TensorBoard, a log line every ten steps."""
    from data_pipeline.load.loader import LoaderConfig
    from vae_dist.train.settings import RunConfig, Settings
    from vae_dist.train.signals import StopRequest
    from vae_dist.train.trainer import Trainer

    with tempfile.TemporaryDirectory() as runs:
        settings = Settings(
            run=RunConfig(
                name="bench", runs_dir=str(runs), batch_size=batch_size, epochs=1_000_000
            ),
            loader=LoaderConfig(loader=loader),
            model=ModelConfig(model_type=name, latent_size=LATENTS),
        )
        trainer = Trainer(settings, data, StopRequest())
        batches = trainer.loaders.train.batches
        trainer.loaders.train.batches = lambda *at: turns.over(batches(*at))  # type: ignore[method-assign]
        trainer.train()


def pythae(turns: Turns, data: DataFolder, name: str, batch_size: int) -> None:
    """pythae's trainer."""
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    class Encoder(BaseEncoder):
        def __init__(self, model: VAEModel) -> None:
            super().__init__()
            self.model = model

        def forward(self, x: Tensor) -> Any:
            mu, logvar = self.model.infer(x, None)
            return ModelOutput(embedding=mu, log_covariance=logvar)

    class Decoder(BaseDecoder):
        def __init__(self, model: VAEModel) -> None:
            super().__init__()
            self.model = model

        def forward(self, z: Tensor) -> Any:
            return ModelOutput(reconstruction=torch.sigmoid(self.model.generate(z)))

    through_data_loader(turns)
    images, model = images_of(data).float() / 255, model_of(data, name)
    config = VAEConfig(
        input_dim=tuple(images.shape[1:]), latent_dim=LATENTS, reconstruction_loss="bce"
    )
    with tempfile.TemporaryDirectory() as folder:
        training = BaseTrainerConfig(
            output_dir=folder,
            num_epochs=1_000_000,
            per_device_train_batch_size=batch_size,
            learning_rate=1e-3,
            no_cuda=device().type == "cpu",
        )
        BaseTrainer(
            model=VAE(config, Encoder(model), Decoder(model)),
            train_dataset=BaseDataset(images, torch.zeros(len(images))),
            training_config=training,
        ).train()


def lightning(turns: Turns, data: DataFolder, name: str, batch_size: int) -> None:
    """Lightning's trainer, a log line every ten steps."""
    import lightning

    class Module(lightning.LightningModule):
        def __init__(self, model: VAEModel) -> None:
            super().__init__()
            self.model = model

        def training_step(self, batch: Any, index: int) -> Tensor:
            (x,) = batch
            loss = negative_elbo(self.model, x) / len(x)
            self.log("train_loss", loss)
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    through_data_loader(turns)
    images = torch.utils.data.TensorDataset(images_of(data).float() / 255)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            max_epochs=-1,
            devices=1,
            accelerator="auto",
            default_root_dir=folder,
            log_every_n_steps=10,
        )
        batches = torch.utils.data.DataLoader(images, batch_size=batch_size, shuffle=True)
        trainer.fit(Module(model_of(data, name)), batches)


class StandIn(ModuleType):
    """A module that is imported and not used: whatever is asked of it is a class."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)
        self.__path__: list[str] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda self, *args, **kwargs: None})


def article2018(turns: Turns, data: DataFolder, name: str, batch_size: int, checkout: str) -> None:
    """The 2018 program's train.py as it is; libraries it merely imports need not be there."""
    for library in (
        "cv2",
        "tensorflow",
        "scipy.misc",
        "skimage.exposure",
        "skimage.color",
        "pandas",
    ):
        try:
            importlib.import_module(library)
        except ImportError:
            for depth in range(1, library.count(".") + 2):
                part = ".".join(library.split(".")[:depth])
                sys.modules.setdefault(part, StandIn(part))
    through_data_loader(turns)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        os.mkdir("weights")
        for split, name_there in (("train", "train"), ("test", "t10k")):
            parts = [data.arrays(s) for s in (("train", "val") if split == "train" else ("test",))]
            pixels = b"".join(np.ascontiguousarray(part.images).tobytes() for part in parts)
            labels = np.concatenate([part.labels for part in parts]).astype(np.uint8).tobytes()
            Path(f"{name_there}-images-idx3-ubyte").write_bytes(bytes(16) + pixels)
            Path(f"{name_there}-labels-idx1-ubyte").write_bytes(bytes(8) + labels)
        sys.path.insert(0, checkout)
        sys.argv = ["train.py", "--model_type", name, "--batch-size", str(batch_size)]
        sys.argv += ["--epochs", "1000000"]
        runpy.run_path(str(Path(checkout) / "train.py"), run_name="__main__")


LOOPS: dict[str, Callable[..., None]] = {
    "ours": partial(ours, loader="memory"),
    "ours_stream": partial(ours, loader="stream"),
    "bare": partial(bare, compiled=False),
    "bare_compiled": partial(bare, compiled=True),
    "pythae": pythae,
    "lightning": lightning,
    "article2018": article2018,
}


def main(name: str, folder: str, model: str, batch_size: str, *more: str) -> None:
    """Run one loop until its input ends; only the answers go to standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    LOOPS[name](Turns(answers), open_data(folder), model, int(batch_size), *more)


if __name__ == "__main__":
    main(*sys.argv[1:])
