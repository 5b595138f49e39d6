"""What this machine is: enough to explain a difference between two of them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from llmbench.schema import content_id

PACKAGES = ("llmbench", "torch", "transformers", "tokenizers", "evaluate", "datasets", "numpy", "pandas")
#: Variables that change speed; nothing else of the environment is recorded.
VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "KMP_AFFINITY",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "NVIDIA_TF32_OVERRIDE",
)


def capture() -> dict[str, Any]:
    """Return hardware, versions and settings. `environment_id` is a hash of the rest."""
    import torch

    environment: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_mib": memory_mib(),
        "os": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "torch_threads": torch.get_num_threads(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "devices": devices(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
    }
    return {"environment_id": content_id(environment), **environment}


def devices() -> list[dict[str, Any]]:
    """Return the accelerators and the CPU as `{"device", "name", "memory_mib", ...}`."""
    import torch

    found: list[dict[str, Any]] = [{"device": "cpu", "name": cpu_model(), "memory_mib": memory_mib()}]
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            props = torch.cuda.get_device_properties(index)
            found.append(
                {
                    "device": f"cuda:{index}",
                    "name": props.name,
                    "memory_mib": props.total_memory / 2**20,
                    "capability": f"{props.major}.{props.minor}",
                    "cuda": torch.version.cuda,
                }
            )
    if torch.backends.mps.is_available():
        found.append({"device": "mps", "name": platform.processor(), "memory_mib": memory_mib()})
    return found


def version(package: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Return the CPU's name as the system gives it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def memory_mib() -> float:
    """Return the machine's memory in MiB."""
    import psutil

    return float(psutil.virtual_memory().total / 2**20)
