"""The torch engine. Shapes: `B` batch, `L` tokens of the input, `C` classes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import resource
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import Tensor

from llmbench.contract.errors import SuiteError, Unsupported
from llmbench.contract.specs import Batch, BuildRequest, CollateContext, Feature, Layout, ModelSpec, PrecisionSpec
from llmbench.contract.step_trial import StepTrial
from llmbench.worker.machine.environment import memory_mib
from llmbench.worker.torch_engine.compilation import CompileWatch
from llmbench.worker.torch_engine.loader import Collate, Fetch, TensorBatch, as_tensors, split_rows

if TYPE_CHECKING:
    from llmbench.contract.record import Trace

MAX_GRAD_NORM = 1.0
EPS = 1e-8  # Kingma and Ba 2015, algorithm 1
#: 1e-8 is 0 in float16, and so is the square of a gradient below 2.4e-4: where both are, an update is 0 / 0.
EPS_FLOAT16 = 1e-4
WARMUP_SHARE = 0.1  # of the steps, linear; then linear decay to zero (Devlin et al. 2019, appendix A.2)
WEIGHT_DECAY = 0.01
OPTIMIZERS: dict[str, dict[str, bool]] = {
    "adamw": {"fused": True},
    "adam": {"fused": True},  # no weight decay
    "adamw-foreach": {"foreach": True},
    "adamw-loop": {"foreach": False, "fused": False},
}
MAX_ANSWER_TOKENS = 30  # the SQuAD scripts' usual limit


class TorchEngine:
    """Drives an `nn.Module` on a CPU, CUDA or MPS device; the options are those of `llmbench.contract.cell.Cell`."""

    graphs = None  # a step is forward, backward and update, one after the other

    def __init__(
        self,
        *,
        device: str,
        precision: PrecisionSpec,
        compiled: bool = False,
        cuda_graphs: bool = False,
        threads: int | None = None,
        accumulation: int = 1,
        checkpointing: bool = False,
        pin_memory: bool = True,
    ) -> None:
        self.device = open_device(device)
        self.precision = precision
        self.compiled, self.cuda_graphs = compiled or cuda_graphs, cuda_graphs
        self.accumulation, self.checkpointing = accumulation, checkpointing
        self.pinned = pin_memory and self.device.type == "cuda"
        if cuda_graphs and self.device.type != "cuda":
            raise Unsupported(f"CUDA graphs need a CUDA device, not {self.device.type}")
        if threads is not None:
            torch.set_num_threads(threads)
        self.head = ""
        if self.device.type not in precision.devices:
            raise Unsupported(f"precision {precision.name!r} does not run on {self.device.type}")
        torch.backends.cuda.matmul.allow_tf32 = precision.matmul == "tf32"
        torch.backends.cudnn.allow_tf32 = precision.matmul == "tf32"
        self.module: torch.nn.Module
        self.optimizer: torch.optim.Optimizer
        self.schedule: torch.optim.lr_scheduler.LRScheduler
        self.scaler: torch.amp.GradScaler

    def build(self, model: ModelSpec, request: BuildRequest, *, seed: int) -> None:
        """Build on the host, then move: the same seed gives the same weights on every device."""
        torch.manual_seed(seed)
        self.head = request.head
        self.eos, self.pad = request.special.eos, request.special.pad
        module = model.build(request)
        self.module = module.to(self.device, dtype=getattr(torch, self.precision.parameters))
        if self.checkpointing:
            recompute_activations(self.module)
        if self.compiled:
            self.module.compile(mode="reduce-overhead" if self.cuda_graphs else None)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def prepare_training(self, *, learning_rate: float, steps: int, optimizer: str) -> None:
        """AdamW, no decay on biases and norms, warm-up and linear decay.

        `adamw` is fused where the device has that, `adamw-foreach` and `adamw-loop` are torch's other two. `adam` is
        `adamw` without decay.
        """
        if optimizer not in OPTIMIZERS:
            raise SuiteError(f"unknown optimizer {optimizer!r} (known: {', '.join(OPTIMIZERS)})")
        trained = [p for p in self.module.parameters() if p.requires_grad]
        groups = [
            {
                "params": [p for p in trained if p.ndim >= 2],
                "weight_decay": 0.0 if optimizer == "adam" else WEIGHT_DECAY,
            },
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        kind: Any = OPTIMIZERS[optimizer]
        if kind.get("fused"):
            kind = {"fused": self.device.type in ("cpu", "cuda")}
        half = any(p.dtype is torch.float16 for p in trained)
        self.optimizer = torch.optim.AdamW(groups, lr=learning_rate, eps=EPS_FLOAT16 if half else EPS, **kind)
        warmup = max(1, round(WARMUP_SHARE * steps))

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / warmup
            return max(0.02, (steps - step) / max(1, steps - warmup))

        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, factor)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision.grad_scaling)
        self.module.train()

    def batches(
        self,
        features: Sequence[Feature],
        order: Sequence[Sequence[int]],
        layout: Layout,
        ctx: CollateContext,
        workers: int,
    ) -> Iterator[Batch]:
        """Collate with torch's DataLoader: `workers` processes, two batches ahead each, pinned by a thread for CUDA."""
        loader: Any = torch.utils.data.DataLoader(
            cast(Any, Fetch(features)),
            batch_sampler=cast(Any, order),
            collate_fn=cast(Any, Collate(layout, ctx)),
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            pin_memory=self.pinned,
        )
        return iter(loader)

    def copy(self, batch: Batch) -> dict[str, Tensor]:
        """Move, without blocking where the memory is pinned; on the CPU there is nothing to move."""
        tensors = batch.arrays if isinstance(batch, TensorBatch) else as_tensors(batch).arrays
        return {name: t.to(self.device, non_blocking=self.pinned) for name, t in tensors.items()}

    def parts(self, arrays: dict[str, Tensor]) -> Sequence[tuple[dict[str, Tensor], float]]:
        """Return the rows in `accumulation` parts; the shares make the sum the mean over the whole batch."""
        return split_rows(arrays, self.accumulation) if self.accumulation > 1 else ((arrays, 1.0),)

    def autocast(self) -> torch.autocast:
        """Return the context in which the forward pass computes in the precision's type."""
        dtype = getattr(torch, self.precision.autocast) if self.precision.autocast else torch.float32
        return torch.autocast(self.device.type, dtype=dtype, enabled=self.precision.autocast is not None)

    def forward(self, arrays: dict[str, Tensor]) -> Tensor:
        """Return the loss, a scalar on the device."""
        with self.autocast():
            return self.module(**arrays)["loss"]

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, of the scaled loss where the precision scales."""
        self.scaler.scale(loss).backward()

    def update(self) -> None:
        """Clip to norm 1, step, schedule and clear."""
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.module.parameters(), MAX_GRAD_NORM)
        before = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if self.scaler.get_scale() >= before:  # a step that overflowed was left out
            self.schedule.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def predict(self, arrays: dict[str, Tensor], *, max_new_tokens: int) -> list[Any]:
        """Return one prediction per row, as the table in `llmbench.contract.specs` says."""
        self.module.eval()
        with self.autocast():
            if self.head == "generate":
                ids = self.module.generate(arrays, max_new_tokens)  # type: ignore[operator]
                return [trim(row, self.eos, self.pad) for row in ids.tolist()]
            output = self.module(**{k: v for k, v in arrays.items() if self.head == "pretrain" or k != "labels"})
        if self.head == "classify":
            return output["logits"].argmax(-1).tolist()
        if self.head == "span":
            return best_spans(output["start_logits"], output["end_logits"], arrays["offset"])
        names = [name for name in output if name.startswith("nll")]
        columns = {name: output[name].float().tolist() for name in (*names, "tokens")}
        return [{name: column[i] for name, column in columns.items()} for i in range(len(columns["nll"]))]

    def loss_value(self, loss: Tensor) -> float:
        """Return the loss as a Python number."""
        return float(loss.detach())

    def synchronize(self) -> None:
        """Wait for the device; nothing is waited for on the CPU."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        elif self.device.type == "mps":
            torch.mps.synchronize()

    def mark(self) -> Any:
        """Record a CUDA event, or read the clock (after waiting, on MPS)."""
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            return event
        self.synchronize()
        return time.perf_counter()

    def seconds_between(self, marks: Sequence[Any]) -> list[float]:
        """Return the seconds between consecutive marks."""
        self.synchronize()
        if self.device.type == "cuda":
            return [a.elapsed_time(b) / 1e3 for a, b in zip(marks, marks[1:], strict=False)]
        return [b - a for a, b in zip(marks, marks[1:], strict=False)]

    def peak_memory_mib(self) -> float:
        """Return the MiB of the allocator's peak on CUDA, else of the peak resident size of this process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device) / 2**20
        if self.device.type == "mps":
            return torch.mps.driver_allocated_memory() / 2**20
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / (2**20 if sys.platform == "darwin" else 2**10)

    def capacity_mib(self) -> float:
        """Return the MiB of the device's memory."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_properties(self.device).total_memory / 2**20
        return memory_mib()

    def limit_memory(self, memory_mib: float) -> None:
        """Limit the allocator on CUDA."""
        if self.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(min(1.0, memory_mib / self.capacity_mib()), self.device)

    def free_memory(self) -> None:
        """Empty torch's cache on a device; on the CPU let the C library give back what is free (glibc)."""
        self.module.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        elif self.device.type == "mps":
            torch.mps.empty_cache()
        elif sys.platform == "linux":
            with contextlib.suppress(AttributeError, OSError):
                ctypes.CDLL(None).malloc_trim(0)

    def parameters(self) -> int:
        """Return the number of parameters; tied ones count once."""
        return sum(p.numel() for p in self.module.parameters())

    def compile_watch(self) -> CompileWatch | None:
        """Return a watch over what `torch.compile` does, where the module is compiled."""
        if not self.compiled:
            return None
        watch = CompileWatch()
        watch.start()
        return watch

    def trial(self, plain: StepTrial) -> StepTrial:
        """Return the step with its module and optimizer, which causes look into; see `Engine.trial`."""
        from llmbench.worker.torch_engine.trial import torch_trial

        return torch_trial(self, plain)

    def memory_parts(self, batch: Batch, *, train: bool) -> dict[str, float]:
        """Return the MiB of each purpose; see `Engine.memory_parts`."""
        from llmbench.worker.torch_engine import memory

        if not train:
            return {"weights_mib": memory.weights_mib(self.module)}
        return memory.parts(self, self.parts(self.copy(batch))[0][0])

    def trace(self, batch: Batch, *, train: bool, max_new_tokens: int) -> Trace:
        """Count one step and profile a few; see `Engine.trace`."""
        from llmbench.worker.torch_engine.tracing import trace

        return trace(self, batch, train=train, max_new_tokens=max_new_tokens)

    def save(self, path: Path) -> None:
        """Write safetensors; shared tensors are stored once and tied again on loading."""
        from safetensors.torch import save_model

        save_model(self.module, str(path))

    def load(self, path: Path, *, strict: bool) -> list[str]:
        """Read safetensors into the module; see `Engine.load`."""
        from safetensors.torch import load_file, load_model

        if strict:
            load_model(self.module, str(path), device=str(self.device))
            return list(self.module.state_dict())
        state = load_file(str(path), device=str(self.device))
        custom = getattr(self.module, "load_pretrained", None)
        if custom is not None:
            return list(custom(state))
        own = self.module.state_dict()
        fitting = {name: t for name, t in state.items() if name in own and own[name].shape == t.shape}
        self.module.load_state_dict(fitting, strict=False)
        return list(fitting)


def recompute_activations(module: torch.nn.Module) -> None:
    """Turn on activation checkpointing in the parts of `module` that know how; Unsupported where none does."""
    able = [m for m in module.modules() if getattr(m, "supports_gradient_checkpointing", False)]
    if not able:
        raise Unsupported("no part of the model can compute its activations again (checkpointing)")
    for part in able:
        enable: Any = getattr(part, "activation_checkpointing_enable", None) or part.gradient_checkpointing_enable
        enable({"use_reentrant": False})  # the first name is that of later transformers


def open_device(name: str) -> torch.device:
    """Return the device; `auto` is the best there is. Raises Unsupported where it is absent."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise SuiteError(f"device {name!r}: write cpu, cuda, cuda:N, mps or auto") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise Unsupported("no CUDA device (torch.cuda.is_available() is False)")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise Unsupported(f"no device {name}: this machine has {torch.cuda.device_count()}")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise Unsupported("no MPS device (torch.backends.mps.is_available() is False)")
    return device


def trim(row: list[int], eos: int, pad: int) -> list[int]:
    """Return the ids before the end."""
    if eos in row:
        row = row[: row.index(eos)]
    return [token for token in row if token != pad]


def best_spans(start_BL: Tensor, end_BL: Tensor, offset_B: Tensor) -> list[tuple[int, int]]:
    """Return the most probable (start, end) of each row with start <= end < start + MAX_ANSWER_TOKENS."""
    start = start_BL.float().log_softmax(-1).cpu().numpy()
    end = end_BL.float().log_softmax(-1).cpu().numpy()
    offsets = offset_B.cpu().numpy()
    length = start.shape[1]
    place = np.arange(length)
    allowed = (place[None, :] >= place[:, None]) & (place[None, :] < place[:, None] + MAX_ANSWER_TOKENS)
    spans = []
    for row in range(start.shape[0]):
        score = np.where(allowed, start[row][:, None] + end[row][None, :], -math.inf)
        first, last = divmod(int(np.nanargmax(score)), length)
        spans.append((first - int(offsets[row]), last - int(offsets[row])))
    return spans
