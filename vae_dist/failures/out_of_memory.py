"""Out of memory: what there was, in a snapshot taken before the stack unwinds, and advice."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import psutil
import torch

from vae_dist.memory.estimate import MemoryConfig, available_bytes
from vae_dist.telemetry.process import allocator_figures
from vae_dist.telemetry.summary import show_bytes
from vae_dist.train.settings import Settings

LARGEST_BLOCKS = 50
_UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice, of a GPU or of the host."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, Exception) and should_reduce_batch_size(error)


class OutOfMemoryObserver:
    """Takes a snapshot of a GPU's memory the moment an allocation fails.

    Files in the run folder: ``oom-rankNNNNN.json`` (figures and the largest blocks),
    ``oom-rankNNNNN.txt`` (torch's memory summary) and, with ``--memory-history``,
    ``oom-rankNNNNN.pickle`` for pytorch.org/memory_viz, which this program never reads.

    Parameters
    ----------
    run_dir : Path
    rank : int
    device : torch.device
    config : MemoryConfig
    """

    def __init__(
        self, run_dir: Path, rank: int, device: torch.device, config: MemoryConfig
    ) -> None:
        self.stem = run_dir / f"oom-rank{rank:05d}"
        self.rank, self.device, self.history = rank, device, config.memory_history
        self.figures: dict[str, Any] | None = None

    def attach(self) -> OutOfMemoryObserver:
        """Ask torch to call on failure; on the CPU there is nothing to ask."""
        if self.device.type == "cuda":
            torch.cuda.init()
            attach = torch._C._cuda_attach_out_of_memory_observer  # type: ignore[attr-defined]
            attach(self.take)
            if self.history:
                torch.cuda.memory._record_memory_history(max_entries=100_000)
        return self

    def take(self, device: int, wanted: int, total: int, free: int) -> None:
        """Write the snapshot; torch calls this, and whatever fails here must not hide its error.

        Parameters
        ----------
        device, wanted, total, free : int
            The device's number, and bytes asked for, of the device and free on it.
        """
        if self.figures is not None and self.figures["device"] == device:
            return  # the first failure tells; later ones are those of the retries
        self.figures = {"device": device, "wanted_bytes": wanted}
        self.figures |= {"device_total_bytes": total, "device_free_bytes": free}
        try:
            self.figures |= allocator_figures(torch.cuda.memory_stats(device))
            self._write(".json", json.dumps(self.figures | {"blocks": _blocks(device)}, indent=1))
            self._write(".txt", torch.cuda.memory_summary(device))
            if self.history:
                torch.cuda.memory._dump_snapshot(f"{self.stem}.pickle")
        except Exception as error:
            self.figures["snapshot_error"] = f"{type(error).__name__}: {error}"

    def _write(self, ending: str, text: str) -> None:
        self.stem.parent.mkdir(parents=True, exist_ok=True)
        Path(f"{self.stem}{ending}").write_text(text + "\n", encoding="utf-8")

    def report(self, error: BaseException, settings: Settings, world_size: int) -> str:
        """Say in one screen what happened, what there was and what helps; also kept as a file.

        Parameters
        ----------
        error : BaseException
        settings : Settings
        world_size : int
        """
        figures = dict(self.figures or self._host_figures(error))
        lines = [f"out of memory on rank {self.rank} ({self.device})"]
        lines += [f"  {name:<22} {value}" for name, value in _shown(figures)]
        lines += ["what helps:"]
        advice = advise(figures, settings, world_size, self.device)
        lines += [f"  {number}. {text}" for number, text in enumerate(advice, 1)]
        try:
            if self.figures is None:
                self._write(".json", json.dumps(figures, indent=1))
            kept = sorted(path.name for path in self.stem.parent.glob(f"{self.stem.name}.*"))
            lines.append(f"written to {self.stem.parent}: {', '.join(kept)}")
        except OSError as failure:
            lines.append(f"no snapshot written: {failure}")
        return "\n".join(lines)

    def _host_figures(self, error: BaseException) -> dict[str, Any]:
        found = re.search(r"allocate ([\d.]+) ?(bytes|KiB|MiB|GiB)", str(error))
        wanted = int(float(found[1]) * _UNITS[found[2]]) if found else None
        return {
            "wanted_bytes": wanted,
            "process_rss_bytes": psutil.Process().memory_info().rss,
            "host_available_bytes": available_bytes(torch.device("cpu")),
            "error": " ".join(str(error).split())[:300],
        }


def explain(
    error: BaseException, settings: Settings, observer: OutOfMemoryObserver | None = None
) -> str:
    """Report an out-of-memory error in one screen.

    Parameters
    ----------
    error : BaseException
    settings : Settings
    observer : OutOfMemoryObserver, optional
        The trainer's; None if memory did not suffice to make one.
    """
    if observer is None:
        place = "cpu" if settings.precision.no_cuda or not torch.cuda.is_available() else "cuda"
        rank = int(os.environ.get("RANK", "0"))
        observer = OutOfMemoryObserver(settings.folder, rank, torch.device(place), settings.memory)
    return observer.report(error, settings, int(os.environ.get("WORLD_SIZE", "1")))


def _blocks(device: int) -> list[dict[str, Any]]:
    """The largest blocks in use: size, stream and, under a history, the lines behind them."""
    blocks = [
        {
            "bytes": block["size"],
            "stream": segment["stream"],
            "frames": [
                f"{frame['filename']}:{frame['line']} {frame['name']}"
                for frame in block.get("frames", [])[:20]
            ],
        }
        for segment in torch.cuda.memory_snapshot()
        if segment["device"] == device
        for block in segment["blocks"]
        if block["state"] == "active_allocated"
    ]
    return sorted(blocks, key=lambda block: -block["bytes"])[:LARGEST_BLOCKS]


def _shown(figures: dict[str, Any]) -> list[tuple[str, str]]:
    names = {
        "wanted_bytes": "asked for",
        "device_free_bytes": "free on the device",
        "device_total_bytes": "device in all",
        "allocator_allocated_bytes": "allocated by torch",
        "allocator_reserved_bytes": "reserved by torch",
        "process_rss_bytes": "resident",
        "host_available_bytes": "host has left",
    }
    shown = [(text, show_bytes(figures[n])) for n, text in names.items() if n in figures]
    if (others := _others(figures)) is not None:
        shown.append(("others on the device", show_bytes(others)))
    if figures.get("allocator_fragmentation") is not None:
        shown.append(("fragmented", f"{figures['allocator_fragmentation']:.0%} of reserved"))
        shown.append(("allocator's retries", str(figures["allocator_retries"])))
    return shown + [
        (name, figures[name]) for name in ("error", "snapshot_error") if name in figures
    ]


def _others(figures: dict[str, Any]) -> int | None:
    """Bytes of the device that torch in this process does not hold."""
    parts = [figures.get(f"device_{name}_bytes") for name in ("total", "free")]
    reserved = figures.get("allocator_reserved_bytes")
    if None in parts or reserved is None:
        return None
    return int(max(parts[0] - parts[1] - reserved, 0))  # type: ignore[operator]


def advise(
    figures: dict[str, Any], settings: Settings, world_size: int, device: torch.device
) -> list[str]:
    """Name what would help, the best first.

    Parameters
    ----------
    figures : dict
        What the snapshot holds.
    settings : Settings
    world_size : int
    device : torch.device
    """
    run = settings.run
    local = math.ceil(run.batch_size / world_size)
    advice = []
    if run.accumulate < local:
        parts = min(2 * run.accumulate, local)
        advice.append(
            f"--accumulate {parts}: micro-batches of {math.ceil(local / parts)} instead of "
            f"{math.ceil(local / run.accumulate)}, with the same result"
        )
    if not settings.memory.find_batch_size:
        advice.append("--find-batch-size True: find the largest micro-batch that fits")
    if settings.precision.mixed_precision == "no" and device.type == "cuda":
        advice.append("--mixed-precision bf16: smaller activations in wide models")
    if settings.loss.importance_samples > 1:
        advice.append(
            f"fewer --importance-samples than {settings.loss.importance_samples}: each costs a "
            "decoder pass"
        )
    others, total = _others(figures), figures.get("device_total_bytes")
    if others and total and others > 0.1 * total:
        advice.append(
            f"other processes hold {show_bytes(others)} of this GPU: nvidia-smi names them"
        )
    fragmented = figures.get("allocator_fragmentation")
    if (
        fragmented
        and fragmented > 0.2
        and "expandable" not in os.environ.get("PYTORCH_CUDA_ALLOC_CONF", "")
    ):
        advice.append(
            f"PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True: {fragmented:.0%} of the reserved "
            "memory lies in fragments"
        )
    if device.type == "cpu":
        advice.append("fewer --workers and processes on this node, or more --mem from Slurm")
    if device.type == "cuda" and not settings.memory.memory_history:
        advice.append("--memory-history True: run again to see which lines took the memory")
    return advice or ["a smaller model: even one image does not fit"]
