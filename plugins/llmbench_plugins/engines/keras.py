"""`keras`, `keras-torch`, `keras-jax`: drive a Keras 3 model on TensorFlow, or on Keras's other two backends.

A model of these engines is a built `keras.Model` that is called with a dict of arrays and returns a dict of what
`llmbench.ModelSpec` says of the torch engine, with `probabilities` for `logits`. Keras is imported when a cell is run:
TensorFlow starts a thread when it is imported, so that no process could be forked from one that has done so.

Shapes: `B` batch, `L` tokens of the input.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import math
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import llmbench

Graph = Callable[[Any], Any]
MIB = 2**20
# As in the torch engine.
MAX_GRAD_NORM = 1.0
WARMUP_SHARE = 0.1  # of the steps
WEIGHT_DECAY = 0.01
LEAST_RATE = 0.02  # of the peak
EPSILON = 1e-8  # of Adam, torch's default (Keras: 1e-7)
OPTIMIZERS = ("adamw", "adam")
INSTALL = "pip install 'llmbench[keras]'"
#: Backend -> the packages that it needs in addition to Keras.
BACKENDS = {"tensorflow": INSTALL, "torch": "pip install keras", "jax": "pip install keras jax"}


class KerasEngine:
    """Drives a `keras.Model` on the CPU. What depends on the backend is in its driver."""

    def __init__(self, request: llmbench.EngineRequest, backend: str, name: str) -> None:
        refuse(request, name)
        self.keras = start_keras(backend, name)
        self.name = name
        self.driver: Any = importlib.import_module(f"llmbench_plugins.engines._keras_{backend}").Driver(request.threads)
        self.model: Any = None
        self.optimizer: Any = None
        self.schedule: Any = None
        self.head = ""

    @property
    def graphs(self) -> tuple[Graph, Graph, Graph] | None:
        """The compiled steps, where the backend compiles."""
        return self.driver.graphs

    def build(self, model: llmbench.ModelSpec, request: llmbench.BuildRequest, *, seed: int) -> None:
        """Build the model; layers are numbered from 1 again, so that equal models have equal names of weights."""
        self.keras.utils.clear_session()
        self.keras.utils.set_random_seed(seed)
        self.head = request.head
        self.model = model.build(request)
        self.driver.take(self.model)

    def prepare_training(self, *, learning_rate: float, steps: int, optimizer: str) -> None:
        """Adam, or with decay of matrices AdamW; warm-up, linear decay, and gradients clipped to norm 1."""
        if optimizer not in OPTIMIZERS:
            known = ", ".join(OPTIMIZERS)
            raise llmbench.SuiteError(f"the engine {self.name} has no optimizer {optimizer!r} (known: {known})")
        self.schedule = schedule(self.keras, learning_rate, steps)
        kind = self.keras.optimizers.Adam if optimizer == "adam" else self.keras.optimizers.AdamW
        decay = {} if optimizer == "adam" else {"weight_decay": WEIGHT_DECAY}
        self.optimizer = kind(self.schedule, epsilon=EPSILON, global_clipnorm=MAX_GRAD_NORM, **decay)
        if decay:
            flat = [v for v in self.model.trainable_variables if len(v.shape) < 2]
            self.optimizer.exclude_from_weight_decay(var_list=flat)
        self.optimizer.build(self.model.trainable_variables)
        self.driver.prepare(self.optimizer)

    def batches(
        self,
        features: Sequence[Mapping[str, Any]],
        order: Sequence[Sequence[int]],
        layout: llmbench.Layout,
        ctx: llmbench.CollateContext,
        workers: int,
    ) -> Iterator[llmbench.Batch]:
        """Collate in this process, when a batch is asked for: TensorFlow's threads allow no process to be forked."""
        if workers:
            raise llmbench.Unsupported(f"the engine {self.name} loads in its own process: workers must be 0")
        return collate_batches(features, order, layout, ctx)

    def copy(self, batch: llmbench.Batch) -> Any:
        """Return the arrays as tensors of the backend."""
        return self.driver.tensors(batch.arrays)

    def parts(self, arrays: Any) -> Sequence[tuple[Any, float]]:
        """Return the whole."""
        return ((arrays, 1.0),)

    def forward(self, arrays: Any) -> Any:
        """Return the loss."""
        return self.driver.forward(arrays)

    def backward(self, loss: Any) -> None:
        """Compute gradients."""
        self.driver.backward(loss)

    def update(self) -> None:
        """Apply the gradients of `backward`."""
        self.driver.update()

    def predict(self, arrays: Any, *, max_new_tokens: int) -> list[Any]:
        """Return one prediction per row."""
        if self.head == "classify":
            arrays = {name: array for name, array in arrays.items() if name != "labels"}
            return self.driver.outputs(arrays)["probabilities"].argmax(-1).tolist()
        outputs = self.driver.outputs(arrays)
        columns = {name: v.tolist() for name, v in outputs.items() if name.startswith("nll") or name == "tokens"}
        return [{name: column[i] for name, column in columns.items()} for i in range(len(columns["nll"]))]

    def loss_value(self, loss: Any) -> float:
        """Return the loss as a number."""
        return float(self.keras.ops.convert_to_numpy(loss))

    def synchronize(self) -> None:
        """Wait for what the backend computes in the background (JAX)."""
        self.driver.synchronize()

    def mark(self) -> float:
        """Read the clock, the device waited for."""
        self.driver.synchronize()
        return time.perf_counter()

    def seconds_between(self, marks: Sequence[float]) -> list[float]:
        """Return the seconds between consecutive marks."""
        return [b - a for a, b in zip(marks, marks[1:], strict=False)]

    def peak_memory_mib(self) -> float:
        """Return the peak resident size of this process."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)

    def capacity_mib(self) -> float:
        """Return the machine's memory."""
        import psutil

        return psutil.virtual_memory().total / MIB

    def limit_memory(self, memory_mib: float) -> None:
        """Leave it to the executor, which limits the host's memory."""

    def free_memory(self) -> None:
        """Drop gradients."""
        self.driver.forget()

    def parameters(self) -> int:
        """Return the number of parameters."""
        return sum(math.prod(v.shape) for v in self.model.variables if is_weight(v))

    def compile_watch(self) -> None:
        """Return None: tracing a graph is a part of the first step that does not show."""

    def trial(self, plain: llmbench.StepTrial) -> llmbench.StepTrial:
        """Return a step whose update can be left out."""
        if plain.trains:
            self.schedule.peak.assign(0.0)
            self.driver.prepare(self.optimizer)  # compiled steps may hold the rate
        return KerasTrial(**{**vars(plain), "module": self.model}, driver=self.driver, keras=self.keras)

    def memory_parts(self, batch: llmbench.Batch, *, train: bool) -> dict[str, Any]:
        """Return sizes of variables and gradients; what the forward pass keeps for the backward pass is not shown."""
        weights = {"weights_mib": mib(self.model.variables)}
        if not train:
            return weights
        sizes = {"gradients_mib": mib(self.model.trainable_variables), "optimizer_mib": mib(self.optimizer.variables)}
        why = "Keras does not tell what a step keeps for its backward pass"
        return {**weights, **sizes, "activations_mib": None, "parts_reason": why}

    def trace(self, batch: llmbench.Batch, *, train: bool, max_new_tokens: int) -> dict[str, Any]:
        """Count the FLOPs and bytes of the step's graph; operators have no times here."""
        found: dict[str, Any] = self.driver.trace(self.copy(batch), train=train)
        shapes = {name: list(array.shape) for name, array in batch.arrays.items()}
        return {"times": None, "phases_s": {}, "shapes": shapes, **found}

    def save(self, path: Path) -> None:
        """Write the weights by their paths in the model."""
        from safetensors.numpy import save_file

        weights = weights_by_path(self.model)
        save_file({name: self.keras.ops.convert_to_numpy(v) for name, v in weights.items()}, str(path))

    def load(self, path: Path, *, strict: bool) -> list[str]:
        """Read weights of equal path and shape. Raises ValueError when `strict` and some are missing or left over."""
        from safetensors.numpy import load_file

        state, own = load_file(str(path)), weights_by_path(self.model)
        taken = [name for name, v in own.items() if name in state and state[name].shape == tuple(v.shape)]
        if strict and (len(taken) < len(own) or len(taken) < len(state)):
            wrong = sorted((own.keys() | state.keys()) - set(taken))
            raise ValueError(f"weights do not fit the model: {', '.join(wrong)}")
        for name in taken:
            own[name].assign(state[name])
        return taken


@dataclasses.dataclass
class KerasTrial(llmbench.StepTrial):
    """A step whose update can be left out, and whose recurrent layers can be given the states before each token."""

    driver: Any = None
    keras: Any = None

    def without_update(self) -> AbstractContextManager[None]:
        """Return a context in which steps compute gradients only."""
        return self.driver.without_update()

    @contextlib.contextmanager
    def without_recurrence(self) -> Iterator[None]:
        """Take steps with all tokens at once; what is compiled is compiled for this, too."""
        from llmbench_plugins.engines import _keras_recurrence as recurrence

        layers = recurrence.recurrent_layers(self.keras, self.module)
        if not layers:
            raise llmbench.DoesNotApply("no recurrent layer in a step")
        with recurrence.at_once(self.keras, layers), self.driver.use_changed_model():
            yield


def refuse(request: llmbench.EngineRequest, name: str) -> None:
    """Raise Unsupported for what this engine does not do."""
    if request.device not in ("cpu", "auto"):
        raise llmbench.Unsupported(f"the engine {name} runs on the cpu only so far, not on {request.device}")
    if request.precision.name != "fp32":
        raise llmbench.Unsupported(f"the engine {name} runs fp32 only so far, not {request.precision.name}")
    asked = {
        "compile: its steps are graphs of the backend as they are": request.compiled or request.cuda_graphs,
        "accumulation: only 1": request.accumulation != 1,
        "checkpointing": request.checkpointing,
    }
    for what, wanted in asked.items():
        if wanted:
            raise llmbench.Unsupported(f"the engine {name} has no {what}")


def start_keras(backend: str, name: str) -> Any:
    """Import Keras on `backend`. Raises Unsupported where either is not installed, or Keras runs on another already."""
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = backend
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        importlib.import_module(backend)
        keras = importlib.import_module("keras")
    except ImportError as error:
        raise llmbench.Unsupported(f"the engine {name} lacks {error.name}: {BACKENDS[backend]}") from None
    if keras.backend.backend() != backend:
        raise llmbench.Unsupported(f"Keras runs on {keras.backend.backend()} in this process, not on {backend}")
    return keras


def collate_batches(
    features: Sequence[Mapping[str, Any]],
    order: Sequence[Sequence[int]],
    layout: llmbench.Layout,
    ctx: llmbench.CollateContext,
) -> Iterator[llmbench.Batch]:
    """Yield batches with the seconds that making them took."""
    for indices in order:
        begin = time.perf_counter()
        rows = [features[i] for i in indices]
        fetched = time.perf_counter()
        batch = layout.collate(rows, ctx)
        yield dataclasses.replace(batch, fetch_s=fetched - begin, collate_s=time.perf_counter() - fetched)


def schedule(keras: Any, peak: float, steps: int) -> Any:
    """Return linear warm-up and decay to LEAST_RATE of the peak, which is a variable: graphs read it anew each step."""
    ops, warmup = keras.ops, max(1, round(WARMUP_SHARE * steps))

    class WarmUpAndDecay(keras.optimizers.schedules.LearningRateSchedule):
        def __init__(self) -> None:
            self.peak = keras.Variable(peak, dtype="float32", trainable=False, name="peak")

        def __call__(self, step: Any) -> Any:
            step = ops.cast(step, "float32")
            falling = ops.maximum(LEAST_RATE, (steps - step) / max(1, steps - warmup))
            return self.peak * ops.where(step < warmup, (step + 1) / warmup, falling)

        def get_config(self) -> dict[str, Any]:
            return {"peak": peak, "steps": steps}

    return WarmUpAndDecay()


def weights_by_path(model: Any) -> dict[str, Any]:
    """Return the weights by their paths in the model, without the name of the model."""
    return {v.path.removeprefix(f"{model.name}/"): v for v in model.variables if is_weight(v)}


def is_weight(variable: Any) -> bool:
    """Return whether it is a parameter or a moving average, and not the state of a random generator."""
    return "seed_generator" not in variable.path


def mib(variables: Sequence[Any]) -> float:
    """Return the MiB of Keras variables."""
    import numpy as np

    return sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in variables) / MIB


def open_engine(request: llmbench.EngineRequest, backend: str, name: str) -> llmbench.Engine:
    """Return the engine on `backend`."""
    return KerasEngine(request, backend, name)


@llmbench.hookimpl
def llmbench_engines() -> list[llmbench.EngineSpec]:
    """Return Keras on each of its backends."""
    names = {"keras": ("tensorflow", "TensorFlow"), "keras-torch": ("torch", "torch"), "keras-jax": ("jax", "JAX")}
    return [
        llmbench.EngineSpec(
            name, functools.partial(open_engine, backend=backend, name=name), f"Keras 3 models on {title}, on the CPU"
        )
        for name, (backend, title) in names.items()
    ]
