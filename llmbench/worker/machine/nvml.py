"""NVIDIA's management library (NVML), through the optional package `nvidia-ml-py`: facts and counters of one GPU.

Names and units: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

NOT_INSTALLED = "nvidia-ml-py is not installed (pip install 'llmbench[nvidia]')"
#: Bits of nvmlDeviceGetCurrentClocksEventReasons (nvml.h) that say that something holds the clocks down.
THROTTLE_REASONS = {
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x200: "board_limit",
    0x400: "reliability",
}
#: Bits that are a state or a setting, not a limit that was hit.
OTHER_CLOCK_REASONS = {0x1: "gpu_idle", 0x2: "applications_clocks_setting", 0x10: "sync_boost", 0x100: "display_clock"}
# nvml.h: nvmlPerfPolicyType_t, nvmlClockType_t, nvmlTemperatureSensors_t
POLICY_POWER, POLICY_THERMAL = 0, 1
CLOCK_SM, CLOCK_MEMORY = 1, 2
TEMPERATURE_GPU = 0


@dataclass(frozen=True)
class Gpu:
    """One device of NVML: the module that answers, and the device's handle in it."""

    nvml: Any
    handle: Any

    def ask(self, name: str, *args: Any) -> Any:
        """Return what `nvml.<name>(handle, ...)` says; None where this device or driver cannot say it."""
        function: Callable[..., Any] | None = getattr(self.nvml, name, None)
        if function is None:
            return None
        try:
            return function(self.handle, *args)
        except self.nvml.NVMLError:
            return None


def open_gpu(device: str) -> tuple[Gpu | None, str | None]:
    """Return NVML's view of a torch device (`cuda`, `cuda:1`), or None and the reason why there is none."""
    if device.partition(":")[0] != "cuda":
        return None, f"{device} is not an NVIDIA device"
    try:
        nvml = importlib.import_module("pynvml")
    except ImportError:
        return None, NOT_INSTALLED
    try:
        nvml.nvmlInit()
        return Gpu(nvml, find_handle(nvml, device)), None
    except nvml.NVMLError as error:
        return None, f"NVML does not answer: {error}"


def find_handle(nvml: Any, device: str) -> Any:
    """Return NVML's handle of a torch device. Their numbering differs (CUDA_VISIBLE_DEVICES), so the UUID is used."""
    uuid = device_uuid(device)
    if uuid is not None:
        for prefix in ("GPU-", "MIG-"):
            try:
                return nvml.nvmlDeviceGetHandleByUUID(prefix + uuid)
            except nvml.NVMLError:
                continue
    return nvml.nvmlDeviceGetHandleByIndex(nvml_index(device))


def device_uuid(device: str) -> str | None:
    """Return the UUID that CUDA knows the device by, without a prefix; None where torch (before 2.5) does not say."""
    import torch

    uuid = getattr(torch.cuda.get_device_properties(device), "uuid", None)
    return None if uuid is None else str(uuid)


def nvml_index(device: str) -> int:
    """Return NVML's number of a torch device where there is no UUID to go by."""
    import torch

    return int(torch.cuda._get_nvml_device_index(torch.device(device)))


def facts(gpu: Gpu) -> dict[str, Any]:
    """Return what does not change from moment to moment: driver, limits, modes; None where NVML does not tell."""
    limit_mw, ecc, mig = (gpu.ask(f"nvmlDeviceGet{name}") for name in ("EnforcedPowerLimit", "EccMode", "MigMode"))
    persistence = gpu.ask("nvmlDeviceGetPersistenceMode")
    return {
        "driver": driver_version(gpu),
        "power_limit_w": None if limit_mw is None else limit_mw / 1e3,
        "sm_mhz_max": gpu.ask("nvmlDeviceGetMaxClockInfo", CLOCK_SM),
        "memory_mhz_max": gpu.ask("nvmlDeviceGetMaxClockInfo", CLOCK_MEMORY),
        "persistence_mode": None if persistence is None else bool(persistence),
        "ecc": None if ecc is None else bool(ecc[0]),
        "mig": None if mig is None else bool(mig[0]),
        "pcie_generation_max": gpu.ask("nvmlDeviceGetMaxPcieLinkGeneration"),
        "pcie_width_max": gpu.ask("nvmlDeviceGetMaxPcieLinkWidth"),
    }


def driver_version(gpu: Gpu) -> str | None:
    """Return the version of the driver."""
    try:
        version = gpu.nvml.nvmlSystemGetDriverVersion()
    except gpu.nvml.NVMLError:
        return None
    return version.decode() if isinstance(version, bytes) else str(version)


def energy_mj(gpu: Gpu) -> int | None:
    """Return the millijoules that the board used since the driver was loaded (Volta and later)."""
    return gpu.ask("nvmlDeviceGetTotalEnergyConsumption")


def state(gpu: Gpu) -> dict[str, Any]:
    """Return what the device does now, and its counters of time lost to limits (ns)."""
    utilisation = gpu.ask("nvmlDeviceGetUtilizationRates")
    reasons = gpu.ask("nvmlDeviceGetCurrentClocksEventReasons")
    if reasons is None:  # its name before driver 535
        reasons = gpu.ask("nvmlDeviceGetCurrentClocksThrottleReasons")
    power, thermal = (gpu.ask("nvmlDeviceGetViolationStatus", policy) for policy in (POLICY_POWER, POLICY_THERMAL))
    return {
        "sm_mhz": gpu.ask("nvmlDeviceGetClockInfo", CLOCK_SM),
        "temperature_c": gpu.ask("nvmlDeviceGetTemperature", TEMPERATURE_GPU),
        "utilisation_pct": None if utilisation is None else utilisation.gpu,
        "clock_reasons": None if reasons is None else reason_names(reasons),
        "power_ns": None if power is None else power.violationTime,
        "thermal_ns": None if thermal is None else thermal.violationTime,
        "other_processes": other_processes(gpu),
    }


def reason_names(mask: int) -> list[str]:
    """Return the names of the bits of a clock event reasons mask."""
    known = {**THROTTLE_REASONS, **OTHER_CLOCK_REASONS}
    return [name for bit, name in sorted(known.items()) if mask & bit]


def other_processes(gpu: Gpu) -> int | None:
    """Return how many processes besides this one have a context on the device.

    In a container NVML lists the host's process ids, so this process, once it has a context, is one of them even
    where its id is not in the list.
    """
    processes = gpu.ask("nvmlDeviceGetComputeRunningProcesses")
    if processes is None:
        return None
    torch = sys.modules.get("torch")
    listed = any(process.pid == os.getpid() for process in processes)
    mine = listed or (torch is not None and torch.cuda.is_initialized())
    return max(0, len(processes) - int(mine))


def between(start: Mapping[str, Any], end: Mapping[str, Any], sm_mhz_max: float | None) -> dict[str, Any]:
    """Return what happened on the device between two states: both ends, and the seconds lost to limits."""

    def seconds(name: str) -> float | None:
        return None if start[name] is None or end[name] is None else (end[name] - start[name]) / 1e9

    twice = ("sm_mhz", "temperature_c", "utilisation_pct", "clock_reasons", "other_processes")
    raw = {f"{name}_{when}": at[name] for name in twice for when, at in (("start", start), ("end", end))}
    lost = {"throttled_power_s": seconds("power_ns"), "throttled_thermal_s": seconds("thermal_ns")}
    return {**raw, "sm_mhz_max": sm_mhz_max, **lost}
