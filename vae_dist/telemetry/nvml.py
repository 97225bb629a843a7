"""GPU figures through NVML; what it does not give is None, with one warning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from vae_dist.telemetry.device import DEVICE_FIELDS
from vae_dist.telemetry.visible import Card, Choice, Instance

log = logging.getLogger("vae_dist.telemetry")

THROTTLE_REASONS = {
    0x001: "gpu_idle",
    0x002: "applications_clocks_setting",
    0x004: "sw_power_cap",
    0x008: "hw_slowdown",
    0x010: "sync_boost",
    0x020: "sw_thermal_slowdown",
    0x040: "hw_thermal_slowdown",
    0x080: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
    0x200: "board_limit",
    0x400: "reliability",
}


class NvmlUnavailable(Exception):
    """NVML cannot be used here; the message says why in one line."""


class Nvml:
    """An open NVML: the driver's versions, the cards, and a reader for each.

    Raises
    ------
    NvmlUnavailable
        No library, no driver, no permission, or the binding is missing.
    """

    def __init__(self) -> None:
        try:
            import pynvml
        except ImportError as error:
            raise NvmlUnavailable("the package nvidia-ml-py is not installed") from error
        self.binding = pynvml
        self.error = pynvml.NVMLError
        try:
            pynvml.nvmlInit()
        except (pynvml.NVMLError, OSError) as error:
            raise NvmlUnavailable(f"NVML does not start ({error})") from error

    def close(self) -> None:
        """Let go of the library."""
        try:
            self.binding.nvmlShutdown()
        except self.error:
            pass

    def ask(self, *names_and_arguments: Any) -> Any:
        """Call one function of the binding; None where it fails or is missing."""
        name, *arguments = names_and_arguments
        try:
            return getattr(self.binding, name)(*arguments)
        except (self.error, AttributeError):
            return None

    def cards(self) -> list[Card]:
        """List the cards and their MIG instances; a card that does not answer is skipped."""
        try:
            count = self.binding.nvmlDeviceGetCount()
        except self.error as error:
            raise NvmlUnavailable(f"NVML does not count its devices ({error})") from error
        cards = []
        for index in range(count):
            handle = self.ask("nvmlDeviceGetHandleByIndex", index)
            uuid = self.ask("nvmlDeviceGetUUID", handle) if handle else None
            if uuid:
                mode = self.ask("nvmlDeviceGetMigMode", handle)
                mig = bool(mode and mode[0])
                instances = self._instances(handle) if mig else ()
                name = self.ask("nvmlDeviceGetName", handle) or "GPU"
                cards.append(Card(index, uuid, name, mig, instances))
        return cards

    def _instances(self, handle: Any) -> tuple[Instance, ...]:
        found = []
        for place in range(self.ask("nvmlDeviceGetMaxMigDeviceCount", handle) or 0):
            part = self.ask("nvmlDeviceGetMigDeviceHandleByIndex", handle, place)
            uuid = self.ask("nvmlDeviceGetUUID", part) if part else None
            if uuid:
                gpu_instance = self.ask("nvmlDeviceGetGpuInstanceId", part)
                compute_instance = self.ask("nvmlDeviceGetComputeInstanceId", part)
                found.append(Instance(uuid, place, gpu_instance, compute_instance))
        return tuple(found)

    def device(self, choice: Choice, *, quiet: bool = False) -> NvmlDevice:
        """Return a reader of a card or instance; ``quiet`` gives no warnings."""
        return NvmlDevice(self, choice, quiet=quiet)


class NvmlDevice:
    """Reads ``DEVICE_FIELDS`` of one GPU.

    Memory and utilisation are those of the MIG instance where there is one; temperature,
    power, energy, clocks, PCIe and ECC exist for the whole card only.
    """

    def __init__(self, nvml: Nvml, choice: Choice, *, quiet: bool = False) -> None:
        self.index: int | None = choice.card.index
        self.name: str | None = choice.name
        self.uuid: str | None = choice.uuid
        self.card: str | None = choice.card.uuid
        self._nvml = nvml
        binding = self._binding = nvml.binding
        try:
            card = binding.nvmlDeviceGetHandleByIndex(choice.card.index)
            part = card
            if choice.instance:
                place = choice.instance.place
                part = binding.nvmlDeviceGetMigDeviceHandleByIndex(card, place)
        except nvml.error as error:
            raise NvmlUnavailable(f"{choice.uuid} does not answer ({error})") from error
        self._card, self._part = card, part
        never = ("NOT_SUPPORTED", "NO_PERMISSION", "FUNCTION_NOT_FOUND", "INVALID_ARGUMENT")
        self._permanent = {getattr(binding, f"NVML_ERROR_{name}") for name in never}
        self._v1_memory = False
        self._warned = 2 if quiet else 0
        self._faults: dict[str, str] = {}
        self._readers: dict[tuple[str, ...], Callable[[], tuple[Any, ...]]] = {
            DEVICE_FIELDS[0:4]: self._memory,
            DEVICE_FIELDS[4:6]: self._utilization,
            DEVICE_FIELDS[6:7]: lambda: (self._temperature(),),
            DEVICE_FIELDS[7:8]: lambda: (binding.nvmlDeviceGetPowerUsage(card) / 1e3,),
            DEVICE_FIELDS[8:9]: lambda: (binding.nvmlDeviceGetEnforcedPowerLimit(card) / 1e3,),
            DEVICE_FIELDS[9:10]: lambda: (binding.nvmlDeviceGetTotalEnergyConsumption(card) / 1e3,),
            DEVICE_FIELDS[10:11]: lambda: (self._clock(binding.NVML_CLOCK_SM),),
            DEVICE_FIELDS[11:12]: lambda: (self._clock(binding.NVML_CLOCK_MEM),),
            DEVICE_FIELDS[12:13]: lambda: (self._throttle_reasons(),),
            DEVICE_FIELDS[13:14]: lambda: (self._pcie(binding.NVML_PCIE_UTIL_TX_BYTES),),
            DEVICE_FIELDS[14:15]: lambda: (self._pcie(binding.NVML_PCIE_UTIL_RX_BYTES),),
            DEVICE_FIELDS[15:16]: lambda: (self._ecc(binding.NVML_MEMORY_ERROR_TYPE_CORRECTED),),
            DEVICE_FIELDS[16:17]: lambda: (self._ecc(binding.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),),
        }

    def _memory(self) -> tuple[int | None, ...]:
        if not self._v1_memory:
            try:
                memory = self._binding.nvmlDeviceGetMemoryInfo(
                    self._part, version=self._binding.nvmlMemory_v2
                )
                return memory.used, memory.reserved, memory.free, memory.total
            except self._nvml.error as error:
                old = ("FUNCTION_NOT_FOUND", "ARGUMENT_VERSION_MISMATCH", "NOT_SUPPORTED")
                if error.value not in {getattr(self._binding, f"NVML_ERROR_{n}") for n in old}:
                    raise
        memory = self._binding.nvmlDeviceGetMemoryInfo(self._part)
        self._v1_memory = True
        self._faults[DEVICE_FIELDS[1]] = "an old driver: its used contains the reserved"
        return memory.used, None, memory.free, memory.total

    def _utilization(self) -> tuple[int, int]:
        rates = self._binding.nvmlDeviceGetUtilizationRates(self._part)
        return rates.gpu, rates.memory

    def _temperature(self) -> int:
        try:
            return int(self._binding.nvmlDeviceGetTemperatureV(self._card, 0))
        except (self._nvml.error, AttributeError):  # older drivers, older bindings
            return int(self._binding.nvmlDeviceGetTemperature(self._card, 0))

    def _clock(self, kind: int) -> int:
        return int(self._binding.nvmlDeviceGetClockInfo(self._card, kind))

    def _throttle_reasons(self) -> list[str]:
        try:
            bits = self._binding.nvmlDeviceGetCurrentClocksEventReasons(self._card)
        except (self._nvml.error, AttributeError):  # drivers before 535
            bits = self._binding.nvmlDeviceGetCurrentClocksThrottleReasons(self._card)
        return [name for bit, name in THROTTLE_REASONS.items() if bits & bit]

    def _pcie(self, direction: int) -> int:
        return int(self._binding.nvmlDeviceGetPcieThroughput(self._card, direction)) * 1000

    def _ecc(self, kind: int) -> int:
        binding = self._binding
        return int(binding.nvmlDeviceGetTotalEccErrors(self._card, kind, binding.NVML_VOLATILE_ECC))

    def read(self) -> dict[str, Any]:
        """Read every field; one that fails is None, for good where it is not supported."""
        record: dict[str, Any] = dict.fromkeys(DEVICE_FIELDS)
        failed: dict[str, str] = {}
        for fields, reader in list(self._readers.items()):
            try:
                record.update(zip(fields, reader(), strict=True))
            except (self._nvml.error, AttributeError, OSError) as error:
                failed |= dict.fromkeys(fields, str(error))
                if getattr(error, "value", None) in self._permanent:
                    del self._readers[fields]
        new = {name: why for name, why in failed.items() if name not in self._faults}
        if self._warned == 0:
            new |= self._faults
        self._faults |= failed
        if new and self._warned < 2:
            names = ", ".join(name.removeprefix("device_") for name in new)
            reasons = "; ".join(dict.fromkeys(new.values()))
            log.warning("telemetry: %s: not given, so null: %s (%s)", self.uuid, names, reasons)
            self._warned = 2 if self._warned else 1
        self._warned = max(self._warned, 1)
        return record

    @property
    def missing(self) -> dict[str, str]:
        """Fields that could not be read, and why."""
        return dict(self._faults)

    def close(self) -> None:
        """Let go of the library."""
        self._nvml.close()
