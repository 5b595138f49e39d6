"""Types of an environment and its parts, as `environment.json` has them. None is what could not be read.

Import this module under `if TYPE_CHECKING:`, as `llmbench.contract.record`.
"""

from __future__ import annotations

from typing import TypedDict


class Cache(TypedDict):
    """A cache of the first core."""

    level: int
    kind: str  # data, instruction or unified
    kib: int
    threads: int | None  # hardware threads that share it


class Frequency(TypedDict):
    """Who sets the frequency of the cores, and within which limits."""

    governor: str | None
    frequency_driver: str | None
    energy_preference: str | None
    mhz_max: float | None
    mhz_limit: float | None  # the lowest that is set for any core
    mhz_base: float | None  # guaranteed
    turbo: bool | None


class CpuFacts(Frequency):
    """The processor, apart from its name."""

    instructions: list[str] | None  # that decide the speed of matrix products
    microcode: str | None
    sockets: int | None
    physical_cores: int | None
    threads: int | None
    smt: bool | None
    numa_nodes: int | None
    caches: list[Cache] | None
    affinity: str | None  # hardware threads that this process may run on


class MemoryFacts(TypedDict):
    """Swap, and how memory is managed."""

    swap_mib: float
    transparent_hugepages: str | None
    numa_balancing: int | None


class Limits(TypedDict):
    """Limits of this process's control groups; None: no limit."""

    cpu_quota_cores: float | None
    memory_limit_mib: float | None


class Virtualisation(TypedDict):
    """Layers between the system and the hardware."""

    hypervisor: bool | None
    container: str | None
    product: str | None  # of the machine, by its firmware


class PythonFacts(TypedDict):
    """The build of Python."""

    implementation: str
    compiler: str
    libc: str | None
    gil: bool


class TorchFacts(TypedDict):
    """How torch was built, and how it is set."""

    parallel_backend: str | None
    openmp: str | None
    mkl: str | None
    onednn: str | None
    interop_threads: int
    git: str | None
    cuda: str | None
    hip: str | None
    cudnn: int | None
    nccl: str | None
    float32_matmul_precision: str | None
    default_dtype: str
    onednn_enabled: bool | None
    deterministic: bool
    cudnn_benchmark: bool
    cudnn_deterministic: bool
    sdpa_backends: dict[str, bool | None]


class GitState(TypedDict):
    """A commit, and whether files that git tracks differ from it."""

    commit: str
    dirty: bool


class GpuFacts(TypedDict):
    """A device as NVML describes it; nothing that changes from moment to moment."""

    driver: str | None
    power_limit_w: float | None
    sm_mhz_max: float | None
    memory_mhz_max: float | None
    persistence_mode: bool | None
    ecc: bool | None
    mig: bool | None
    pcie_generation_max: int | None
    pcie_width_max: int | None


class GpuState(TypedDict):
    """A device at one moment."""

    sm_mhz: float | None
    temperature_c: float | None
    utilisation_pct: float | None
    clock_reasons: list[str] | None  # that hold the clocks down
    power_ns: int | None  # lost to the power limit so far
    thermal_ns: int | None  # lost to heat so far
    other_processes: int | None  # with a context on the device


class _FirstDeviceFields(TypedDict):
    device: str
    name: str
    memory_mib: float


class Device(_FirstDeviceFields, total=False):
    """The CPU or an accelerator; the further fields are those of a CUDA device."""

    capability: str
    multiprocessors: int
    cuda: str | None
    nvml: GpuFacts | None
    nvml_reason: str | None


class Environment(TypedDict):
    """One machine with its software: an entry of `environment.json`."""

    environment_id: str
    cpu: str
    cores: int | None
    usable_cores: int | None
    memory_mib: float
    os: str
    os_release: str | None
    kernel: str
    machine: str
    python: str
    packages: dict[str, str | None]
    optional_packages: dict[str, str]
    numpy_blas: str | None
    torch_threads: int
    torch_cpu_capability: str
    torch: TorchFacts
    variables: dict[str, str]
    devices: list[Device]
    cpu_facts: CpuFacts
    memory_facts: MemoryFacts
    limits: Limits
    virtualisation: Virtualisation
    python_facts: PythonFacts
    llmbench_git: GitState | None
    git: GitState | None
    now: dict[str, float | None]  # load and free memory; no part of the id
