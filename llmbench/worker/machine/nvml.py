"""NVIDIA's management library (NVML), through the optional package `nvidia-ml-py`: facts and counters of one GPU.

Names and units: https://docs.nvidia.com/deploy/nvml-api/group__nvmlDeviceQueries.html
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmbench.contract.record import JsonObject
    from llmbench.worker.machine.facts import GpuFacts, GpuState

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
POLICY_POWER = 0
POLICY_THERMAL = 1
CLOCK_SM = 1
CLOCK_MEMORY = 2
TEMPERATURE_GPU = 0


@dataclass(frozen=True)
class Gpu:
    """One device of NVML: the module that answers, and the device's handle in it."""

    nvml: Any
    handle: Any

    def ask(self, name: str, *args: Any) -> Any:
        """Return the answer of `nvml.<name>(handle, ...)`; None where this device or driver has none."""
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


def facts(gpu: Gpu) -> GpuFacts:
    """Return driver, limits and modes of the device; None where NVML has no answer."""
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


def state(gpu: Gpu) -> GpuState:
    """Return the device's clocks and load now, and its counters of time lost to limits (ns)."""
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
    """Return the number of other processes that have a context on the device.

    In a container NVML lists the host's process ids, so this process, once it has a context, is one of them even
    where its id is not in the list.
    """
    processes = gpu.ask("nvmlDeviceGetComputeRunningProcesses")
    if processes is None:
        return None
    torch = sys.modules.get("torch")
    in_list = any(process.pid == os.getpid() for process in processes)
    mine = in_list or (torch is not None and torch.cuda.is_initialized())
    return max(0, len(processes) - int(mine))


def between(start: GpuState, end: GpuState, sm_mhz_max: float | None) -> JsonObject:
    """Return two states of the device, and the seconds lost to limits between them (`health.gpu` of a record)."""

    def seconds(before_ns: int | None, after_ns: int | None) -> float | None:
        return None if before_ns is None or after_ns is None else (after_ns - before_ns) / 1e9

    return {
        "sm_mhz_start": start["sm_mhz"],
        "sm_mhz_end": end["sm_mhz"],
        "temperature_c_start": start["temperature_c"],
        "temperature_c_end": end["temperature_c"],
        "utilisation_pct_start": start["utilisation_pct"],
        "utilisation_pct_end": end["utilisation_pct"],
        "clock_reasons_start": start["clock_reasons"],
        "clock_reasons_end": end["clock_reasons"],
        "other_processes_start": start["other_processes"],
        "other_processes_end": end["other_processes"],
        "sm_mhz_max": sm_mhz_max,
        "throttled_power_s": seconds(start["power_ns"], end["power_ns"]),
        "throttled_thermal_s": seconds(start["thermal_ns"], end["thermal_ns"]),
    }
