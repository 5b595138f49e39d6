"""The ceilings of the machine: the best that it can do, measured.

- `calibrate.py` measures all of them. They are in `matmul.py`, `bandwidth.py` (caches and memory) and `transfers.py`
  (copies, starting an operator, reading a file).
- `sampling.py` estimates a ceiling from short samples; `timing.py` times calls, `all_cores.py` on all cores at once.
"""
