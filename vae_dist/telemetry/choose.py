"""Opens the device that a rank watches."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence

import torch

from data_pipeline.errors import UserError
from vae_dist.telemetry.device import Device, NullDevice
from vae_dist.telemetry.nvml import Nvml, NvmlUnavailable
from vae_dist.telemetry.visible import Card, Choice, find, find_uuid, local_rank, visible

log = logging.getLogger("vae_dist.telemetry")


def open_device(
    wanted: str, device: torch.device, environ: Mapping[str, str] | None = None
) -> Device:
    """Open the GPU that a rank watches, or one that measures nothing, with one warning at most.

    Parameters
    ----------
    wanted : str
        ``--telemetry-device``: ``auto``, ``none``, or indices and UUIDs by local rank.
    device : torch.device
        Where the rank trains.
    environ : mapping, optional
        In place of ``os.environ``.

    Raises
    ------
    ValueError
        ``wanted`` names a GPU that NVML does not list.
    """
    environ = os.environ if environ is None else environ
    assigned = environ.get("CUDA_VISIBLE_DEVICES") or ""
    if wanted == "none" or (wanted == "auto" and device.type != "cuda" and not assigned):
        return NullDevice()
    place = local_rank(environ)
    try:
        nvml = Nvml()
    except NvmlUnavailable as error:
        if place == 0:  # one warning a node
            log.warning("telemetry: %s: GPU figures are null", error)
        return NullDevice()
    try:
        cards = nvml.cards()
        if wanted == "auto":
            choice = _own(device, place, environ.get("CUDA_VISIBLE_DEVICES"), cards)
        else:
            names = [name.strip() for name in wanted.split(",")]
            choice = find(names[place % len(names)], cards)
            if choice is None:
                known = ", ".join(f"{card.index} {card.uuid}" for card in cards) or "no GPU"
                raise UserError(
                    f"--telemetry-device {names[place % len(names)]}: NVML lists {known}"
                )
        if choice is None:
            raise NvmlUnavailable(
                f"CUDA_VISIBLE_DEVICES={assigned} names none of NVML's {len(cards)} GPUs"
            )
        watched = nvml.device(choice)
        if wanted == "auto" and device.type != "cuda":
            log.warning(
                "telemetry: training on the %s while CUDA_VISIBLE_DEVICES assigns GPU %d %s: "
                "its figures are recorded",
                device.type,
                choice.card.index,
                choice.uuid,
            )
        return watched
    except NvmlUnavailable as error:
        log.warning("telemetry: %s: GPU figures are null", error)
    except ValueError:
        nvml.close()
        raise
    nvml.close()
    return NullDevice()


def _own(
    device: torch.device, place: int, variable: str | None, cards: Sequence[Card]
) -> Choice | None:
    """Find the device that a rank trains on, or, on the CPU, that is assigned to it."""
    if device.type == "cuda":
        number = device.index if device.index is not None else torch.cuda.current_device()
        named = visible(variable, cards)
        listed = named[number] if number < len(named) else None
        if listed is not None and listed.instance is not None:
            return listed  # CUDA may report a MIG instance by its card's UUID
        uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
        return (find_uuid(str(uuid), cards) if uuid is not None else None) or listed
    named = visible(variable, cards)
    return named[place % len(named)] if named else None
