"""Energy between two points, from the counters that the hardware keeps: NVML on NVIDIA, RAPL on x86 CPUs.

A counter is of a whole part of the machine, not only of this process; `source` says of which part. Nothing is estimated
from the power on a datasheet.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmbench.worker.machine import nvml

if TYPE_CHECKING:
    from llmbench.contract.record import Energy

#: NVML's counters are refreshed every 20 to 100 ms (Yang et al. 2023, arXiv:2312.02741): 0.5 s keeps that below 20 %.
MIN_NVML_S = 0.5
#: RAPL refreshes about every millisecond (Intel SDM vol. 3B, 16.10.1): 0.05 s keeps that below 2 %.
MIN_RAPL_S = 0.05
UNREADABLE = "the energy counter gave no number (NVML has none before Volta, and none for a MIG instance)"
#: No CPU package draws more. A counter that could start again twice at this power says nothing.
MAX_PACKAGE_W = 1000.0


@dataclass(frozen=True)
class Domain:
    """One package of RAPL: its counter's file, its name, and the value at which the counter starts again, in uJ."""

    path: Path
    name: str
    range_uj: int


class EnergyMeter:
    """Reads one energy counter before and after a measurement. `device`: `cpu`, `cuda`, `cuda:1` ..."""

    def __init__(self, device: str, root: Path = Path("/")) -> None:
        self.source: str | None = None
        self._gpu: nvml.Gpu | None = None
        self._domains: list[Domain] = []
        kind = device.partition(":")[0]
        if kind == "cuda":
            self._gpu, self._reason = nvml.open_gpu(device)
            self.source = f"NVML total energy of {device}: the whole board, whoever uses it; the host is not in it"
        elif kind == "cpu":
            self._domains, self._reason = find_domains(root / "sys/class/powercap")
            names = ", ".join(domain.name for domain in self._domains)
            self.source = (
                f"RAPL {names}: whole CPU packages, other processes included; memory and devices are not in it"
            )
        else:
            self._reason = f"llmbench knows no energy counter of {device}"
        if self._reason is not None:
            self.source = None

    def start(self) -> None:
        """Read the counter and start the clock."""
        self._before = self._read()
        self._start_s = time.perf_counter()

    def stop(self) -> Energy:
        """Return `joules` since `start` (None where `reason` says why), the `seconds` they took, and their `source`."""
        seconds = time.perf_counter() - self._start_s
        joules, reason = self._joules(self._before, self._read(), seconds)
        return {"joules": joules, "seconds": seconds, "source": self.source, "reason": reason}

    def _read(self) -> dict[str, int] | None:
        """Return the counters now: microjoules by name."""
        if self._gpu is not None:
            millijoules = nvml.energy_mj(self._gpu)
            return None if millijoules is None else {"board": millijoules * 1000}
        try:
            return {domain.name: int(domain.path.read_text()) for domain in self._domains} or None
        except (OSError, ValueError):
            return None

    def _joules(
        self, before: Mapping[str, int] | None, after: Mapping[str, int] | None, seconds: float
    ) -> tuple[float | None, str | None]:
        if self._reason is not None:
            return None, self._reason
        if before is None or after is None:
            return None, UNREADABLE
        if self._gpu is None:
            return rapl_joules(self._domains, before, after, seconds)
        if seconds < MIN_NVML_S:
            return None, f"{seconds:.2f} s is too short: NVML refreshes its counter every 20 to 100 ms"
        return (after["board"] - before["board"]) / 1e6, None


def find_domains(powercap: Path) -> tuple[list[Domain], str | None]:
    """Return the packages whose counter can be read, or none and the reason.

    Only `intel-rapl:N` named `package-N` (AMD's too): cores are part of their package, and `intel-rapl-mmio` is the
    same counter by another way. https://docs.kernel.org/power/powercap/powercap.html
    """
    domains = []
    for folder in sorted(powercap.glob("intel-rapl:[0-9]*")):
        try:
            name = (folder / "name").read_text().strip()
            if name.startswith("package"):
                int((folder / "energy_uj").read_text())
                domains.append(Domain(folder / "energy_uj", name, int((folder / "max_energy_range_uj").read_text())))
        except PermissionError:
            return [], "RAPL is readable by root only on this system (energy_uj; CVE-2020-8694)"
        except (OSError, ValueError) as error:
            return [], f"RAPL cannot be read: {type(error).__name__}"
    return domains, None if domains else "no RAPL counter here (/sys/class/powercap has no CPU package)"


def rapl_joules(
    domains: list[Domain], before: Mapping[str, int], after: Mapping[str, int], seconds: float
) -> tuple[float | None, str | None]:
    """Return the joules of all packages together, or None and the reason."""
    if seconds < MIN_RAPL_S:
        return None, f"{seconds:.3f} s is too short: RAPL refreshes its counter about every millisecond"
    shortest_s = min(domain.range_uj for domain in domains) / 1e6 / MAX_PACKAGE_W
    if seconds > shortest_s:
        return None, f"the RAPL counter may have wrapped more than once in {seconds:.0f} s (safe: {shortest_s:.0f} s)"
    return sum(counter_difference_uj(before[d.name], after[d.name], d.range_uj) for d in domains) / 1e6, None


def counter_difference_uj(before: int, after: int, range_uj: int) -> int:
    """Return the microjoules between two readings of a counter that starts again from 0 after `range_uj`."""
    return after - before if after >= before else after - before + range_uj
