"""Which GPU is a rank's: CUDA's numbering against NVML's.

NVML lists all cards of the machine in PCI order and ignores CUDA_VISIBLE_DEVICES; CUDA
lists what that variable names, in its order. The two meet in the UUID.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Instance:
    """A MIG instance of a card."""

    uuid: str
    place: int
    gpu_instance: int | None = None
    compute_instance: int | None = None


@dataclass(frozen=True)
class Card:
    """A card as NVML lists it."""

    index: int
    uuid: str
    name: str
    mig: bool = False
    instances: tuple[Instance, ...] = ()


@dataclass(frozen=True)
class Choice:
    """A whole card, or one MIG instance of it."""

    card: Card
    instance: Instance | None = None

    @property
    def uuid(self) -> str:
        """UUID of the instance, else of the card."""
        return self.instance.uuid if self.instance else self.card.uuid

    @property
    def name(self) -> str:
        """Name of the card; an instance is marked."""
        return f"{self.card.name} (MIG)" if self.instance else self.card.name


def find(entry: str, cards: Sequence[Card]) -> Choice | None:
    """Find what one entry of CUDA_VISIBLE_DEVICES names, or None.

    Parameters
    ----------
    entry : str
        An index, ``GPU-`` and a UUID or an unambiguous beginning of one, ``MIG-`` and the
        same, or the older ``MIG-GPU-UUID/GPU_INSTANCE/COMPUTE_INSTANCE``.
    cards : sequence of Card
        What NVML lists.
    """
    entry = entry.strip()
    if entry.isdecimal():
        found = [_default(card) for card in cards if card.index == int(entry)]
    elif entry.upper().startswith("MIG-GPU-"):
        card_name, *places = entry[4:].split("/")
        pair = tuple(int(place) for place in places if place.isdecimal())
        found = [
            Choice(card, instance)
            for card in cards
            if card.uuid.lower().startswith(card_name.lower())
            for instance in card.instances
            if (instance.gpu_instance, instance.compute_instance) == pair
        ]
    elif entry.upper().startswith("MIG-"):
        found = [
            Choice(card, instance)
            for card in cards
            for instance in card.instances
            if instance.uuid.lower().startswith(entry.lower())
        ]
    elif entry.upper().startswith("GPU-") and len(entry) > 4:
        found = [_default(c) for c in cards if c.uuid.lower().startswith(entry.lower())]
    else:
        found = []
    return found[0] if len(found) == 1 else None


def _default(card: Card) -> Choice:
    """What CUDA uses of a card that is named whole: under MIG its first instance."""
    return Choice(card, card.instances[0] if card.mig and card.instances else None)


def visible(variable: str | None, cards: Sequence[Card]) -> list[Choice]:
    """List the devices that CUDA numbers 0, 1, ... under a value of CUDA_VISIBLE_DEVICES.

    As in CUDA, the list ends before the first entry that names nothing, and a list that
    names a device twice is empty. An unset variable (None) means all cards.
    """
    if variable is None:
        return [_default(card) for card in cards]
    chosen: list[Choice] = []
    for entry in variable.split(","):
        choice = find(entry, cards)
        if choice is None:
            break
        chosen.append(choice)
    return chosen if len({choice.uuid for choice in chosen}) == len(chosen) else []


def find_uuid(uuid: str, cards: Sequence[Card]) -> Choice | None:
    """Find a card or instance by the UUID that CUDA reports (with or without a prefix)."""
    bare = uuid.lower().removeprefix("gpu-").removeprefix("mig-")
    for card in cards:
        for instance in card.instances:
            if instance.uuid.lower() == f"mig-{bare}":
                return Choice(card, instance)
        if card.uuid.lower() == f"gpu-{bare}":
            return _default(card)
    return None


def local_rank(environ: Mapping[str, str]) -> int:
    """This process's number on its node: from torchrun, else from srun, else 0."""
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        if environ.get(name, "").isdecimal():
            return int(environ[name])
    return 0
