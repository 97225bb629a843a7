"""One frame of the monitor: what a run reader knows, as a rich renderable."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from launch.monitor.reader import Rank, RunReader
from vae_dist.telemetry.summary import STRAGGLER_RATIO, show, show_bytes, show_seconds

BARS = "▁▂▃▄▅▆▇█"
STATE_STYLES = {"done": "green", "running": "cyan", "failed": "bold red", "stopped": "yellow"}


def sparkline(values: Sequence[float], width: int, low: float | None = None) -> str:
    """Draw values as a row of bars, the newest at the right."""
    values = list(values)[-width:]
    if not values:
        return ""
    low = min(values) if low is None else low
    span = max(values) - low
    return "".join(BARS[int((v - low) / span * 7.99) if span else 0] for v in values)


def frame(run: RunReader, width: int = 100) -> RenderableType:
    """Compose everything that is known of a run."""
    parts: list[RenderableType] = [_head(run, width)]
    if run.train or run.val:
        parts.append(_metrics(run, width))
    if run.ranks:
        parts.extend(_ranks(run, width))
    else:
        parts.append(Text("no telemetry yet", style="dim"))
    warnings = list(alerts(run))
    if warnings:
        parts.append(Text("\n".join(f"! {line}" for line in warnings), style="yellow"))
    return Group(*parts)


def _head(run: RunReader, width: int) -> RenderableType:
    status = run.status
    state = status.get("state", "unknown")
    step, total = status.get("step") or 0, status.get("total_steps")
    if run.train:  # the newest line of metrics may be younger than the status
        step = max(step, run.train[-1].get("step") or 0)
    title = Text.assemble(
        (run.folder.name, "bold"), "  ", (state, STATE_STYLES.get(state, "bold")), "  "
    )
    title.append(f"step {step:,}" + (f" of {total:,}" if total else ""))
    rate = _steps_per_second(run)
    if rate and total and not run.ended:
        title.append(f"  {_clock((total - step) / rate)} left")
    if status.get("checkpoint"):
        title.append(f"  checkpoint {status['checkpoint']}", style="dim")
    body: list[RenderableType] = [title]
    if status.get("reason"):
        body.append(Text(str(status["reason"])[:400], style=STATE_STYLES.get(state, "")))
    model, data = run.config.get("model", {}), run.config.get("data", {})
    if model:
        latents = run.config.get("latent_shape") or [model.get("latent_size")]
        z = "x".join(map(str, latents))
        sizes = f"{model.get('model_type')} z={z} on {data.get('name')}"
        batch = run.config.get("run", {}).get("batch_size")
        world = status.get("world_size")
        body.append(Text(f"{sizes}, global batch {batch}, {world} process(es)", style="dim"))
    if total:  # a bar ends no line, so it comes last
        body.append(ProgressBar(total=total, completed=min(step, total), width=width - 4))
    return Panel(Group(*body), title="vae-dist", title_align="left", width=width)


def _steps_per_second(run: RunReader) -> float | None:
    batch = run.config.get("run", {}).get("batch_size")
    rate = run.train[-1].get("images_per_second") if run.train else None
    return rate / batch if rate and batch else None


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _metrics(run: RunReader, width: int) -> RenderableType:
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for head in ("", "epoch", "loss", "recon", "kl", "ssim", "img/s", "lr", "loss over time"):
        rows.add_column(head, justify="left" if head in ("", "loss over time") else "right")
    for name, records in (("train", run.train), ("val", run.val)):
        if records:
            last = records[-1]
            losses = [r["loss"] for r in records if r.get("loss") is not None]
            rows.add_row(
                name,
                show(last.get("epoch"), ".2f"),
                show(last.get("loss"), ".2f"),
                show(last.get("recon"), ".2f"),
                show(last.get("kl"), ".2f"),
                show(last.get("ssim"), ".4f"),
                show(last.get("images_per_second"), ",.0f"),
                show(last.get("lr"), ".1e"),
                sparkline(losses, max(width - 82, 10)),
            )
    return rows


DEVICE_HEADS = ("device", "util", "used", "total", "allocated", "power", "temp", "sm clock")
PROCESS_HEADS = ("img/s", "step p50", "data wait", "cpu", "rss", "sampled")
ONE_TABLE = 160
"""Columns from which devices and processes share a table."""


def _ranks(run: RunReader, width: int) -> Iterable[RenderableType]:
    summaries = {s["rank"]: s for s in _telemetry(run).get("ranks", [])}
    silent = run.silent
    cells = {
        number: _cells(rank, summaries.get(number, {}), run.ended)
        for number, rank in sorted(run.ranks.items())
        if rank.records
    }
    groups: list[tuple[str, ...]] = [DEVICE_HEADS, PROCESS_HEADS]
    if width >= ONE_TABLE:
        groups = [DEVICE_HEADS + PROCESS_HEADS]
    for group in groups:
        heads = [h for h in group if any(row[h] != "-" for row in cells.values())]
        if not heads:
            continue
        rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        rows.add_column("rank", justify="right")
        for head in heads:
            rows.add_column(
                head, justify="left" if head == "device" else "right", no_wrap=head != "device"
            )
        for number, row in cells.items():
            style = "red" if number in silent else None
            rows.add_row(str(number), *(row[head] for head in heads), style=style)
        yield rows


def _telemetry(run: RunReader) -> dict[str, Any]:
    return run.status.get("telemetry") or {}


def _cells(rank: Rank, summary: dict[str, Any], ended: bool) -> dict[str, str]:
    last = rank.records[-1]
    share, age = rank.steady("data_wait_share"), rank.age
    device = summary.get("device_name") or (last.get("device_uuid") or "")[:12] or "-"
    if last.get("device_index") is not None:
        device = f"{last['device_index']} {device}"
    utils = [r.get("device_utilization_percent") for r in rank.records]
    chart = sparkline([u for u in utils if u is not None], 8, low=0.0)
    values = (
        device.replace("NVIDIA ", ""),
        f"{chart} {utils[-1]:3.0f} %" if utils[-1] is not None else "-",
        show_bytes(last.get("device_memory_used_bytes")),
        show_bytes(last.get("device_memory_total_bytes")),
        show_bytes(last.get("allocator_allocated_bytes")),
        show(last.get("device_power_watts"), ".0f", " W"),
        show(last.get("device_temperature_celsius"), ".0f", " C"),
        show(last.get("device_sm_clock_mhz"), ".0f", " MHz"),
        show(rank.steady("images_per_second"), ",.0f"),
        show_seconds(rank.steady("step_seconds_p50")),
        "-" if share is None else f"{share:.0%}",
        show(rank.steady("process_cpu_percent"), ".0f", " %"),
        show_bytes(last.get("process_rss_bytes")),
        "-" if ended or age is None else f"{age:.0f} s ago",
    )
    return dict(zip(DEVICE_HEADS + PROCESS_HEADS, values, strict=True))


def alerts(run: RunReader) -> Iterable[str]:
    """Name what deserves a look: silent, slow, hot, starved or faulty ranks."""
    for number, age in run.silent.items():
        yield f"rank {number}: no sample for {age:.0f} s; the process may be dead or stuck"
    for number in _telemetry(run).get("stragglers", []):
        yield f"rank {number}: its own time a step is over {STRAGGLER_RATIO} times the median"
    for number, rank in sorted(run.ranks.items()):
        if not rank.records:
            continue
        last = rank.records[-1]
        slow = [r for r in last.get("device_throttle_reasons") or [] if "slowdown" in r]
        if slow:
            yield f"rank {number}: its clocks are held down ({', '.join(slow)})"
        if last.get("device_ecc_uncorrected"):
            yield f"rank {number}: {last['device_ecc_uncorrected']} uncorrected memory errors"
        if last.get("allocator_retries"):
            yield (
                f"rank {number}: the allocator had to flush its cache "
                f"{last['allocator_retries']} times; memory is nearly full"
            )
        share = rank.steady("data_wait_share")
        if share is not None and share > 0.2:
            yield f"rank {number}: {share:.0%} of a step waits for data; raise --workers"
