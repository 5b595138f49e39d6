"""The built-in causes: one file for each, with how it is probed, predicted and removed.

Files that begin with `_` are no causes. Causes share them, and import nothing else of each other.

- `_swap.py` puts other functions in the place of some for a while; `_pairs.py` times a change against ordinary steps.
- `_operators.py` times operators one by one, `_host_clock.py` the Python between them.
- `_products.py`, `_core.py`, `_cells.py`, `_streams.py`, `_checkpoints.py` and `_collectives.py` find the products with
  weights, hand-written attention, recurrent cells, elementwise operators on large tensors, checkpointed regions, and
  exchanges with other processes.
- `_replay.py` takes a step without its Python; `_full_memory.py` compares a batch with one twice as large.
"""
