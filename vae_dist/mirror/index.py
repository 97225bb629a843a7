"""What the copy of a run holds: ``mirror.json``, written after what it names is whole."""

from __future__ import annotations

import dataclasses
import json
import re

from data_pipeline.errors import UserError
from data_pipeline.records import parse_json, read_record
from vae_dist.mirror.store import Store

NAME = "mirror.json"
SCHEMA = 1
_STEP = re.compile(r"step-\d{8,12}")


@dataclasses.dataclass(kw_only=True)
class Index:
    """The checkpoints that are whole in a store, and which of them are meant.

    Attributes
    ----------
    session : str
        Which training wrote here last: its lock's id.
    last, best : str or None
        Names of checkpoints, as the links of a run folder.
    checkpoints : dict of str to str
        Name to SHA-256 of the ``meta.json``, which has the sums of the other files.
    epochs : dict of str to float
        Name to the epoch that it ends.
    """

    schema: int = SCHEMA
    session: str = ""
    last: str | None = None
    best: str | None = None
    checkpoints: dict[str, str] = dataclasses.field(default_factory=dict)
    epochs: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise UserError(f"schema {self.schema} is not known here; update vae-dist")
        named = [*self.checkpoints, *self.epochs, self.last, self.best]
        if odd := [n for n in named if n is not None and not _STEP.fullmatch(n)]:
            raise UserError(f"{odd[0]!r:.40} is no name of a checkpoint")

    def newest_first(self, up_to: str | None = None) -> list[str]:
        """Names of its checkpoints; without those beyond `up_to`."""
        end = step_of(up_to) if up_to else None
        names = [name for name in self.checkpoints if end is None or step_of(name) <= end]
        return sorted(names, key=step_of, reverse=True)

    def without(self, names: list[str]) -> Index:
        """This index, some checkpoints taken out."""
        left = {n: v for n, v in self.checkpoints.items() if n not in names}
        return dataclasses.replace(
            self,
            checkpoints=left,
            epochs={n: v for n, v in self.epochs.items() if n in left},
            last=max(left, key=step_of, default=None),
            best=self.best if self.best in left else None,
        )


def step_of(name: str) -> int:
    """The step of ``step-NNNNNNNN``."""
    return int(name.removeprefix("step-"))


def read_index(store: Store) -> Index | None:
    """The index of a store; None where none was written.

    Raises
    ------
    UserError
        If it is damaged.
    """
    content = store.read(NAME)
    if content is None:
        return None
    where = f"{store}/{NAME}"
    return read_record(Index, parse_json(content, where), where, ignore_unknown=True)


def write_index(store: Store, index: Index) -> None:
    """Publish an index; all that it names must be whole."""
    store.write(NAME, (json.dumps(dataclasses.asdict(index), indent=1) + "\n").encode())
