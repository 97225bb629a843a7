"""The part of ``doctor`` that looks at GPUs, the driver and torch's build."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

from launch.doctor.findings import Finding
from vae_dist.telemetry.nvml import Nvml, NvmlUnavailable
from vae_dist.telemetry.summary import show, show_bytes
from vae_dist.telemetry.visible import Choice, visible


def check_torch() -> Iterator[Finding]:
    """torch's build, and whether it computes on each GPU that it sees."""
    build = torch.version.cuda
    text = f"{torch.__version__}, {f'built for CUDA {build}' if build else 'built without CUDA'}"
    yield Finding("torch", "ok", text)
    if torch.distributed.is_available():
        backends = ["gloo"] * torch.distributed.is_gloo_available()
        if torch.distributed.is_nccl_available():
            version = ".".join(map(str, torch.cuda.nccl.version())) if build else ""
            backends.append(f"nccl {version}".strip())
        yield Finding("process groups", "ok", ", ".join(backends))
    else:
        yield Finding("process groups", "error", "torch was built without torch.distributed")
    if not torch.cuda.is_available():
        cards = list(Path("/dev").glob("nvidia[0-9]*"))
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden in ("", "-1"):
            yield Finding("cuda", "note", "hidden: CUDA_VISIBLE_DEVICES is empty")
        elif cards and not build:
            fix = "install a CUDA build of torch"
            yield Finding("cuda", "error", f"{len(cards)} GPU(s), but torch has no CUDA", fix)
        elif cards:
            fix = "compare nvidia-smi's CUDA version with torch's; in a container: --gpus all"
            yield Finding("cuda", "error", f"{len(cards)} GPU(s) that torch cannot use", fix)
        else:
            yield Finding("cuda", "note", "no GPU: training and evaluation run on the CPU")
        return
    for number in range(torch.cuda.device_count()):
        yield _compute(number)


def _compute(number: int) -> Finding:
    name = f"cuda:{number}"
    try:
        device = torch.device(name)
        properties = torch.cuda.get_device_properties(device)
        product = torch.ones(256, 256, device=device) @ torch.ones(256, 256, device=device)
        assert product.sum().item() == 256**3
        bf16 = "bf16" if properties.major >= 8 else "no fast bf16"
    except Exception as error:
        text = " ".join(str(error).split())[:160]
        have = ", ".join(torch.cuda.get_arch_list())
        return Finding(name, "error", f"does not compute: {text}", f"torch was built for {have}")
    size = show_bytes(properties.total_memory)
    return Finding(name, "ok", f"computes: {properties.name}, {size}, {bf16}")


def check_gpus() -> Iterator[Finding]:
    """NVML: the driver, each card's state, and which cards CUDA_VISIBLE_DEVICES means."""
    try:
        nvml = Nvml()
    except NvmlUnavailable as error:
        present = any(Path("/dev").glob("nvidia[0-9]*"))
        fix = "in a container: NVIDIA_DRIVER_CAPABILITIES=compute,utility" if present else ""
        text = f"{error}: GPU figures of telemetry are null"
        yield Finding("nvml", "warning" if present else "note", text, fix)
        return
    try:
        yield _driver(nvml)
        cards = nvml.cards()
        for card in cards:
            yield _card(nvml, Choice(card))
            for instance in card.instances:
                yield _card(nvml, Choice(card, instance))
        variable = os.environ.get("CUDA_VISIBLE_DEVICES")
        if variable:
            chosen = visible(variable, cards)
            found = ", ".join(f"{c.card.index} {c.uuid}" for c in chosen) or "no GPU"
            short = len(chosen) < len(variable.split(","))
            fix = "CUDA ends the list at the first entry that names no GPU" if short else ""
            status = "error" if short else "ok"
            yield Finding("CUDA_VISIBLE_DEVICES", status, f"{variable} means {found}", fix)  # type: ignore[arg-type]
    except NvmlUnavailable as error:
        yield Finding("nvml", "error", str(error))
    finally:
        nvml.close()


def _driver(nvml: Nvml) -> Finding:
    driver = nvml.ask("nvmlSystemGetDriverVersion") or "of unknown version"
    number = nvml.ask("nvmlSystemGetCudaDriverVersion")
    text = f"driver {driver}"
    if number is None:
        return Finding("driver", "ok", text)
    text += f", for CUDA up to {number // 1000}.{number % 1000 // 10}"
    build = torch.version.cuda
    if build and int(build.split(".")[0]) > number // 1000:
        fix = f"update the driver, or install torch for CUDA {number // 1000}"
        return Finding("driver", "error", f"{text}; torch needs CUDA {build}", fix)
    return Finding("driver", "ok", text)


def _card(nvml: Nvml, choice: Choice) -> Finding:
    instance = choice.instance
    name = f"gpu {choice.card.index}" + (f" mig {instance.place}" if instance else "")
    try:
        device = nvml.device(choice, quiet=True)
    except NvmlUnavailable as error:
        return Finding(name, "error", str(error), "nvidia-smi -q; the node may need a reboot")
    figures = device.read()
    used, total = figures["device_memory_used_bytes"], figures["device_memory_total_bytes"]
    parts = [choice.name, choice.uuid, f"{show_bytes(used)} used of {show_bytes(total)}"]
    parts.append(show(figures["device_temperature_celsius"], ".0f", " C"))
    parts.append(show(figures["device_power_watts"], ".0f", " W"))
    text = ", ".join(part for part in parts if part != "-")
    if device.missing:
        missing = ", ".join(field.removeprefix("device_") for field in device.missing)
        text += f"; does not give {missing}"
    slowed = [r for r in figures["device_throttle_reasons"] or [] if "slowdown" in r]
    if figures["device_ecc_uncorrected"]:
        fix = "drain the node: results may be wrong"
        return Finding(name, "error", f"{text}; uncorrected memory errors", fix)
    if slowed:
        return Finding(name, "warning", f"{text}; {', '.join(slowed)}", "cooling or power supply")
    if used is not None and total and used > 0.1 * total:
        return Finding(name, "warning", f"{text}; in use", "nvidia-smi names the processes")
    return Finding(name, "ok", text)
