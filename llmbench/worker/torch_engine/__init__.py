"""The engine of torch.

- `engine.py` drives a module: build, step, predict, save. `loader.py` makes its batches.
- `trial.py` is a step that causes look into; `padding.py` and `tensor_trees.py` know batches of any make.
- `tracing.py` says what one step does: `operator_counter.py` counts it by the rules of `operator_classes.py`, and
  `profiling.py` times it from the events of `profile_events.py`.
- `memory.py` says what memory is for, `compilation.py` what `torch.compile` did.
"""
