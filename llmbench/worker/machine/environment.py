"""A description of this machine: enough to explain a difference between two, and nothing that says whose it is.

`capture` is the page to read; `hardware`, `software` and `nvml` hold the parts.
`llmbench.analysis.machine_differences.different_facts` compares two.
"""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.contract.cell import content_id
from llmbench.worker.machine import hardware, nvml, software
from llmbench.worker.machine.hardware import cpu_model, memory_mib
from llmbench.worker.machine.software import version

if TYPE_CHECKING:
    from llmbench.worker.machine.facts import Device, Environment

__all__ = ["capture", "cpu_model", "devices", "memory_mib", "version"]


def capture() -> Environment:
    """Return hardware, versions and settings. `environment_id` is a hash of all but `now`, which changes by itself.

    Runs no tensor operation. On CUDA it opens the devices, so it belongs into a process of its own.
    """
    import torch

    environment: Environment = {
        "environment_id": "",  # below
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": hardware.usable_cores(),
        "memory_mib": memory_mib(),
        "os": platform.system(),
        "os_release": hardware.os_release(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": software.packages(),
        "optional_packages": software.optional_packages(),
        "numpy_blas": software.numpy_blas(),
        "torch_threads": torch.get_num_threads(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": software.torch_facts(),
        "variables": software.variables(os.environ),  # before CUDA starts, which sets some
        "devices": devices(),
        "cpu_facts": hardware.cpu_facts(),
        "memory_facts": hardware.memory_facts(),
        "limits": hardware.limits(),
        "virtualisation": hardware.virtualisation(),
        "python_facts": software.python_facts(),
        "llmbench_git": software.own_git_state(),
        "git": software.git_state(Path.cwd()),
        "now": hardware.load_now(),
    }
    content = {name: value for name, value in environment.items() if name not in ("environment_id", "now")}
    return {**environment, "environment_id": content_id(content)}


def devices() -> list[Device]:
    """Return the CPU and the accelerators."""
    import torch

    every: list[Device] = [{"device": "cpu", "name": cpu_model(), "memory_mib": memory_mib()}]
    if torch.cuda.is_available():
        every += [cuda_device(index) for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        every.append({"device": "mps", "name": platform.processor(), "memory_mib": memory_mib()})
    return every


def cuda_device(index: int) -> Device:
    """Return one device as CUDA and, where `nvidia-ml-py` is installed, NVML describe it."""
    import torch

    props = torch.cuda.get_device_properties(index)
    gpu, reason = nvml.open_gpu(f"cuda:{index}")
    return {
        "device": f"cuda:{index}",
        "name": props.name,
        "memory_mib": props.total_memory / 2**20,
        "capability": f"{props.major}.{props.minor}",
        "multiprocessors": props.multi_processor_count,
        "cuda": torch.version.cuda,
        "nvml": None if gpu is None else nvml.facts(gpu),
        "nvml_reason": reason,
    }
