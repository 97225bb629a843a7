"""The device a rank watches, behind one interface; one of them measures nothing."""

from __future__ import annotations

from typing import Any, Protocol

DEVICE_FIELDS = (
    "device_memory_used_bytes",
    "device_memory_reserved_bytes",
    "device_memory_free_bytes",
    "device_memory_total_bytes",
    "device_utilization_percent",
    "device_memory_utilization_percent",
    "device_temperature_celsius",
    "device_power_watts",
    "device_power_limit_watts",
    "device_energy_joules",
    "device_sm_clock_mhz",
    "device_memory_clock_mhz",
    "device_throttle_reasons",
    "device_pcie_tx_bytes_per_second",
    "device_pcie_rx_bytes_per_second",
    "device_ecc_corrected",
    "device_ecc_uncorrected",
)


class Device(Protocol):
    """Something with figures: a GPU through NVML, or nothing."""

    index: int | None
    name: str | None
    uuid: str | None
    card: str | None

    def read(self) -> dict[str, Any]:
        """Return a value, or None, for each of ``DEVICE_FIELDS``."""
        ...

    def close(self) -> None:
        """Let go of the library."""
        ...


class NullDevice:
    """Stands where there is no GPU to watch."""

    index: int | None = None
    name: str | None = None
    uuid: str | None = None
    card: str | None = None

    def read(self) -> dict[str, Any]:
        """Return None for each field."""
        return dict.fromkeys(DEVICE_FIELDS)

    def close(self) -> None:
        """Nothing is held."""
