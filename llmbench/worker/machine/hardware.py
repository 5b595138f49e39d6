"""The hardware: processor and memory, their limits, and what virtualises them. Nothing here needs torch.

Only what stays the same while the machine does; no host name, no user, no path. What cannot be read is None.
Formats: proc(5), sysfs-devices-system-cpu and .../admin-guide/pm/cpufreq.html of the kernel's documentation.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.worker.machine import cgroups
from llmbench.worker.machine.counters import text_of

if TYPE_CHECKING:
    from llmbench.worker.machine.facts import Cache, CpuFacts, Frequency, Limits, MemoryFacts, Virtualisation

MIB = 2**20
#: Instructions that decide how fast a matrix product of some precision can be (x86, then ARM).
INSTRUCTIONS = frozenset(
    (
        *("fma", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
        *("amx_tile", "amx_bf16", "amx_int8", "amx_fp16"),
        *("asimd", "asimddp", "fphp", "bf16", "i8mm", "sve", "sve2", "sme"),
    )
)
CONTAINER_WORDS = {"docker": "docker", "kubepods": "kubernetes", "libpod": "podman", "lxc": "lxc"}


def cpu_model(root: Path = Path("/")) -> str:
    """Return the CPU's name as the system gives it."""
    return line_of(text_of(root / "proc/cpuinfo"), "model name") or platform.processor() or platform.machine()


def line_of(info: str, name: str) -> str | None:
    """Return the first value of a name in /proc/cpuinfo."""
    lines = (line.partition(":") for line in info.splitlines())
    return next((value.strip() for key, _, value in lines if key.strip() == name), None)


def cpu_flags(info: str) -> list[str] | None:
    """Return the processor's features in alphabetical order; None where the system does not list them."""
    flags = line_of(info, "flags") or line_of(info, "Features")
    return None if flags is None else sorted(flags.split())


def memory_mib() -> float:
    """Return the machine's memory in MiB."""
    import psutil

    return float(psutil.virtual_memory().total / MIB)


def cpu_facts(root: Path = Path("/")) -> CpuFacts:
    """Return instructions, topology, caches, NUMA nodes, and the limits of the frequency."""
    cpus = root / "sys/devices/system/cpu"
    sockets, cores, threads = topology(cpus)
    smt = text_of(cpus / "smt/active").strip()
    nodes = list((root / "sys/devices/system/node").glob("node[0-9]*"))
    info = text_of(root / "proc/cpuinfo")
    return {
        "instructions": [name for name in cpu_flags(info) or [] if name in INSTRUCTIONS] or None,
        "microcode": line_of(info, "microcode"),
        "sockets": sockets,
        "physical_cores": cores,
        "threads": threads,
        "smt": None if smt not in ("0", "1") else smt == "1",
        "numa_nodes": len(nodes) or None,
        "caches": caches(cpus / "cpu0/cache"),
        "affinity": affinity(),
        **frequency(cpus),
    }


def topology(cpus: Path) -> tuple[int | None, int | None, int | None]:
    """Return the number of sockets, of physical cores and of hardware threads that are online."""
    folders = [folder for folder in cpus.glob("cpu[0-9]*/topology") if (folder / "core_id").exists()]
    places = [
        (text_of(folder / "physical_package_id").strip(), text_of(folder / "core_id").strip()) for folder in folders
    ]
    if not places:
        return None, None, None
    return len({socket for socket, _ in places}), len(set(places)), len(places)


def caches(folder: Path) -> list[Cache] | None:
    """Return the caches of the first core; None where the system does not list them."""
    every: list[Cache] = []
    for cache in sorted(folder.glob("index[0-9]*")):
        size = text_of(cache / "size").strip()
        if size.endswith("K"):
            sharing = expand(text_of(cache / "shared_cpu_list"))
            kind, level = text_of(cache / "type").strip().lower(), text_of(cache / "level").strip()
            every.append({"level": int(level), "kind": kind, "kib": int(size[:-1]), "threads": len(sharing) or None})
    return every or None


def frequency(cpus: Path) -> Frequency:
    """Return who sets the frequency of the cores, by which policy, and the limits in MHz."""
    policy = "cpu[0-9]*/cpufreq"

    def mhz(name: str) -> list[float]:
        values = [text_of(path).strip() for path in cpus.glob(f"{policy}/{name}")]
        return [int(v) / 1e3 for v in values if v.isdigit()]

    boost, no_turbo = (text_of(cpus / name).strip() for name in ("cpufreq/boost", "intel_pstate/no_turbo"))
    return {
        "governor": distinct(text_of(path) for path in cpus.glob(f"{policy}/scaling_governor")),
        "frequency_driver": distinct(text_of(path) for path in cpus.glob(f"{policy}/scaling_driver")),
        "energy_preference": distinct(text_of(p) for p in cpus.glob(f"{policy}/energy_performance_preference")),
        "mhz_max": max(mhz("cpuinfo_max_freq"), default=None),
        "mhz_limit": min(mhz("scaling_max_freq"), default=None),  # the lowest limit that is set for any core
        "mhz_base": max(mhz("base_frequency"), default=None),
        "turbo": boost == "1" if boost else no_turbo == "0" if no_turbo else None,
    }


def distinct(texts: Iterable[str]) -> str | None:
    """Return the different values, joined; nearly always one."""
    return ", ".join(sorted({text.strip() for text in texts if text.strip()})) or None


def memory_facts(root: Path = Path("/")) -> MemoryFacts:
    """Return the size of swap, and the settings of huge pages and NUMA balancing."""
    import psutil

    pages = text_of(root / "sys/kernel/mm/transparent_hugepage/enabled")
    balancing = text_of(root / "proc/sys/kernel/numa_balancing").strip()
    return {
        "swap_mib": float(psutil.swap_memory().total / MIB),
        "transparent_hugepages": pages.partition("[")[2].partition("]")[0] or None,
        "numa_balancing": int(balancing) if balancing.isdigit() else None,
    }


def limits(root: Path = Path("/")) -> Limits:
    """Return the limits of this process's control groups; None: no limit, or none that can be read."""
    return {"cpu_quota_cores": cgroups.cpu_quota_cores(root), "memory_limit_mib": cgroups.memory_limit_mib(root)}


def virtualisation(root: Path = Path("/")) -> Virtualisation:
    """Return whether a hypervisor and a container lie over the hardware, and which product it says it is."""
    info, dmi = text_of(root / "proc/cpuinfo"), root / "sys/class/dmi/id"
    flags = cpu_flags(info)
    product = [text_of(dmi / name).strip() for name in ("sys_vendor", "product_name")]
    return {
        "hypervisor": None if flags is None else "hypervisor" in flags,
        "container": container(root),
        "product": " ".join(filter(None, product)) or None,
    }


def container(root: Path = Path("/")) -> str | None:
    """Return the kind of container this process is in; None outside of one, or where there is no sign of it."""
    if (root / "run/.containerenv").exists():
        return "podman"
    groups = text_of(root / "proc/1/cgroup") + text_of(root / "proc/self/cgroup")
    kind = next((kind for word, kind in CONTAINER_WORDS.items() if word in groups), None)
    return kind or ("docker" if (root / ".dockerenv").exists() else None)


def os_release(root: Path = Path("/")) -> str | None:
    """Return the distribution's name and version."""
    for line in text_of(root / "etc/os-release").splitlines():
        if line.startswith("PRETTY_NAME="):
            return line.partition("=")[2].strip().strip('"')
    return platform.mac_ver()[0] or None


def usable_cores() -> int | None:
    """Return the number of hardware threads that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def affinity() -> str | None:
    """Return the hardware threads that this process may run on, as `0-3,8`."""
    return ranges(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def ranges(numbers: Iterable[int]) -> str:
    """Return numbers as the kernel writes lists: `0-3,8`."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def expand(text: str) -> list[int]:
    """Return the numbers of a list as the kernel writes it; the reverse of `ranges`."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


def load_now() -> dict[str, float | None]:
    """Return load and free memory, which change from moment to moment and are no part of a hash."""
    import psutil

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {"load_1min": load, "available_memory_mib": float(psutil.virtual_memory().available / MIB)}
