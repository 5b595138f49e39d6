"""The machine: what it is, what disturbs it, and the energy it takes.

- `environment.py` describes it; the parts are in `hardware.py`, `software.py` and `nvml.py` (NVIDIA), their types in
  `facts.py`.
- `monitor.py` says what disturbed a measurement, from `counters.py` and `cgroups.py`.
- `energy.py` reads the counters of energy; `allocator.py` sets how the C library frees memory.
"""
