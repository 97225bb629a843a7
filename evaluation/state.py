"""What every step of an evaluation works with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError, files_of_user
from data_pipeline.folder import DataFolder, open_data
from data_pipeline.order import World
from data_pipeline.redact import scrubbed
from evaluation.backends.choose import Backends
from evaluation.cache import Cache
from evaluation.images import Images, open_splits
from evaluation.results.records import Results
from evaluation.settings import EvaluateConfig
from evaluation.stages import Stages


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One evaluation on one process.

    Attributes
    ----------
    config : EvaluateConfig
    data : DataFolder
    out : Path
        The evaluation folder.
    splits : dict
        ``train`` and ``test``; read in parts.
    cache, backends, stages
        Where results are kept, stages are carried out, and recorded.
    world : World
        The processes that share the work; they must share `out` and the cache.
    device : str
        Where models run.
    wait : callable
        Returns when all processes have called it.
    agree : callable
        Given a fault or nothing by every process; gives all of them the first fault.
    """

    config: EvaluateConfig
    data: DataFolder
    out: Path
    splits: dict[str, Images]
    cache: Cache
    backends: Backends
    stages: Stages
    world: World
    device: str
    wait: Callable[[], None]
    agree: Callable[[str], str]

    def end_if(self, fault: str) -> None:
        """End every process where one of them has a fault; all must call this.

        Raises
        ------
        UserError
        """
        if told := self.agree(fault):
            raise UserError(told)

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the results."""
        return self.world.rank == 0

    def results(self) -> Results:
        """``results.json`` before anything was measured."""
        manifest = self.data.manifest
        return Results(
            dataset=manifest.name,
            data_fingerprint=manifest.fingerprint,
            image_shape=list(manifest.image_shape),
            classes=list(manifest.classes),
            counts={name: len(images) for name, images in self.splits.items()},
            protocol=self.config.protocol,
            seed=self.config.seed,
            backend=self.backends.describe(),
            versions=self.backends.versions(),
            settings=scrubbed(_plain(dataclasses.asdict(self.config))),
        )


def open_evaluation(
    config: EvaluateConfig,
    data: DataFolder,
    *,
    world: World,
    device: str,
    wait: Callable[[], None],
    agree: Callable[[str], str],
    tell: Callable[[str], None],
) -> Evaluation:
    """Open folders, images and backends; what is wrong with them ends every process.

    Raises
    ------
    UserError
        If the data, the folders or the backend cannot be used.
    """
    out = config.out or Path("eval") / data.manifest.name
    # First, as it costs no time: a GPU that was asked for and is missing.
    backends = Backends(config.backend, tell=tell)
    keep = config.cache or out.parent / ".cache"
    for flag, folder in (("--out", out), ("--cache", keep)):
        with files_of_user(f"{flag} {folder}: cannot be written", "name another folder"):
            folder.mkdir(parents=True, exist_ok=True)
    cache = Cache(keep, fresh=config.fresh, tell=tell)
    if backends.asked == "auto" and backends.used == "cpu":
        tell(f"backend cpu: {backends.reason}")
    return Evaluation(
        config=config,
        data=data,
        out=out,
        splits=open_splits(data, cache),
        cache=cache,
        backends=backends,
        stages=backends.stages(),
        world=world,
        device=device,
        wait=wait,
        agree=agree,
    )


def open_data_of(config: EvaluateConfig) -> DataFolder:
    """The data folder that the settings name."""
    if config.data is None:
        raise UserError("--data: give a data folder that vae-dist prepare wrote")
    return open_data(config.data)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
